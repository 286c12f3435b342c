//! Instructions by callgrind: the same on a busy machine as on a quiet one, so a few hundred more show.

mod callgrind;
mod cases;
mod table;

use anyhow::{Context, Result, bail};

use self::callgrind::Count;
use self::cases::{CASES, Case};
use self::table::{Row, Table};
use super::arena::{Arena, Scale};
use super::contender::Contender;
use super::machine;
use crate::setup::{Postgres, Program, on_path, provide_programs};
use crate::ui::{Step, Ui};

/// Counts everything whose name contains one of `only`, or everything.
pub fn count(postgres: &Postgres, only: &[String], ui: &Ui) -> Result<Table> {
    provide_programs(&[Program::Debian("valgrind", "valgrind")].into(), ui);
    let valgrind = on_path("valgrind").context("instructions are counted by valgrind, which can't be had here")?;
    let cases: Vec<&Case> =
        CASES.iter().filter(|case| only.is_empty() || only.iter().any(|part| case.name.contains(part))).collect();
    let contenders: Vec<Contender> =
        Contender::all().iter().copied().filter(|c| cases.iter().any(|case| case.contenders.contains(c))).collect();
    let mut arena = Arena::prepare(postgres, &contenders, Scale::COUNTED, ui)?;
    let folder = postgres.folder("callgrind")?;
    ui.step("Starting the servers below valgrind", |_| arena.restart_below(&callgrind::wrapper(&valgrind, &folder)))?;
    let mut rows = Vec::new();
    ui.step("Counting instructions", |step| {
        for case in cases {
            for contender in case.contenders {
                let each = measure(&arena, *contender, case, &folder, step)
                    .with_context(|| format!("{} by {}", case.name, contender.name()))?;
                rows.push(Row { case: case.name.to_owned(), contender: *contender, each });
            }
        }
        Ok(())
    })?;
    Ok(Table { commit: machine::commit()?, server: machine::server_version(postgres)?, rows })
}

fn measure(arena: &Arena, contender: Contender, case: &Case, folder: &std::path::Path, step: &Step) -> Result<Count> {
    step.note(&format!("{}: {}", case.name, contender.name()));
    let life = |units: u32| -> Result<Count> {
        let mut session = arena.session(contender)?;
        let pid = session.pid();
        case.run(&mut session, units)?;
        drop(session);
        callgrind::read(folder, pid)
    };
    // Pages that the first session dirtied or pruned are as the next ones find them.
    life(case.units)?;
    let (once, twice) = (life(case.units)?, life(case.units * 2)?);
    Ok(once.step_to(twice, case.units))
}

/// Compares with the table in the repository; an error where something costs more than tolerated.
pub fn check(counted: &Table) -> Result<()> {
    let known = Table::read()?;
    print!("{}", counted.compared_with(&known));
    let worse = counted.worse_than(&known);
    if worse.is_empty() {
        return Ok(());
    }
    bail!("more instructions than at commit {}:\n{}", known.commit, worse.join("\n"))
}

/// Makes what was counted the table in the repository.
pub fn accept(counted: &Table) -> Result<()> {
    counted.write()?;
    print!("{}", counted.markdown());
    Ok(())
}
