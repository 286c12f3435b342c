//! What Holdfast costs, beside what one would do instead: `cargo pg-bench`.
//!
//! | module | holds |
//! |---|---|
//! | [`contender`] | who is compared, and the SQL that makes each what it is |
//! | [`arena`] | clusters and databases, made once and alike |
//! | [`workload`] | what is measured, and the budget |
//! | [`oltp`], [`bulk`], [`handover`], [`refusals`], [`sessions`] | how |
//! | [`rounds`] | turns, and what they come to |
//! | [`machine`], [`report`], [`readme`] | where figures come from, and where they go |
//! | [`instructions`] | what work costs in instructions, by callgrind, and the table that is kept |

mod arena;
mod bulk;
mod contender;
mod handover;
mod instructions;
mod machine;
mod oltp;
pub mod readme;
mod refusals;
mod report;
mod rounds;
mod sessions;
mod workload;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::arena::{Arena, Scale};
use self::machine::Machine;
use self::report::Report;
use self::rounds::Outcome;
use self::workload::{WORKLOADS, Workload};
use crate::setup::{Postgres, target_folder};
use crate::ui::Ui;

pub use contender::Contender;

/// What a turn finds.
pub struct Bench {
    arena: Arena,
    course: Course,
    /// For scripts.
    folder: PathBuf,
}

/// How long everything takes.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// That count, where turns are short.
    rounds: usize,
    /// A turn of what takes as long as it is told to.
    seconds: u64,
    quick: bool,
}

/// What to measure.
#[derive(Args, Clone, Debug)]
pub struct BenchOptions {
    /// A look in about three minutes instead of figures in about thirty
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this; several are possible
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only these contenders, beside "none"
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Count instructions instead, and compare with the table in the repository
    #[arg(long)]
    check: bool,
    /// Count instructions instead, and make that the table in the repository
    #[arg(long, conflicts_with = "check")]
    accept: bool,
    /// Put the figures into README.md
    #[arg(long, conflicts_with_all = ["check", "accept", "only", "contenders"])]
    write_readme: bool,
}

/// Measures.
pub fn run(postgres: &Postgres, options: &BenchOptions, ui: &Ui) -> Result<()> {
    if options.accept {
        return instructions::accept(&instructions::count(postgres, &options.only, ui)?);
    }
    if options.check {
        return instructions::check(&instructions::count(postgres, &options.only, ui)?);
    }
    let workloads = options.workloads()?;
    let contenders = options.contenders_of(&workloads);
    let (scale, course) = if options.quick {
        (Scale::QUICK, Course { rounds: 2, seconds: 1, quick: true })
    } else {
        (Scale::FULL, Course { rounds: 5, seconds: 3, quick: false })
    };
    let mut machine = Machine::look(postgres)?;
    let arena = Arena::prepare(postgres, &contenders, scale, ui)?;
    let bench = Bench { arena, course, folder: postgres.folder("bench")? };
    let outcomes: Result<Vec<Outcome>> = workloads.into_iter().map(|workload| measure(&bench, workload, ui)).collect();
    machine.finish()?;
    let report = Report { machine, scale, rounds: course.rounds, seconds: course.seconds, outcomes: outcomes? };
    let markdown = report.markdown();
    println!("{markdown}");
    let folder = target_folder().join("bench");
    fs::create_dir_all(&folder)?;
    for (name, text) in [("bench.md", markdown.clone()), ("bench.json", format!("{:#}\n", report.json()))] {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    ui.say(&format!("written to {}", folder.display()));
    if options.write_readme { readme::write(&markdown) } else { Ok(()) }
}

fn measure(bench: &Bench, workload: &'static Workload, ui: &Ui) -> Result<Outcome> {
    bench.arena.durable(workload.durable)?;
    ui.step(workload.title, |step| rounds::run(bench, workload, step))
}

impl BenchOptions {
    fn workloads(&self) -> Result<Vec<&'static Workload>> {
        let asked = |workload: &&Workload| {
            self.only.is_empty() || self.only.iter().any(|part| workload.name.contains(part.as_str()))
        };
        let workloads: Vec<_> = WORKLOADS.iter().filter(asked).collect();
        if workloads.is_empty() {
            let names: Vec<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
            bail!("no workload is called like {}; there are {}", self.only.join(", "), names.join(", "));
        }
        Ok(workloads)
    }

    /// Those whom the workloads need, as far as they were asked for.
    fn contenders_of(&self, workloads: &[&Workload]) -> Vec<Contender> {
        let asked = |c: &Contender| self.contenders.is_empty() || *c == Contender::None || self.contenders.contains(c);
        let needed = |c: &Contender| workloads.iter().any(|workload| workload.contenders.contains(c));
        Contender::all().iter().copied().filter(asked).filter(needed).collect()
    }
}
