//! The pure layer's tests: `cargo test --lib` of the extension, which needs no server.

use anyhow::{Result, bail};

use crate::launcher::run_noting;
use crate::setup::Postgres;
use crate::suite::Counts;
use crate::ui::Ui;

/// Runs them, in the same build environment as the package; prints cargo's words on a failure.
pub fn run(postgres: &Postgres, filter: Option<&str>, ui: &Ui) -> Result<Counts> {
    let environment = postgres.build_environment();
    let mut test = environment.cargo();
    test.args(["test", "--package", "holdfast", "--lib"]).args(environment.features());
    if let Some(filter) = filter {
        test.args(["--", filter]);
    }
    let finished = ui.step("Testing the policy layer", |step| run_noting(test, step))?;
    let counts = count(&finished.output);
    if !finished.status.success() {
        println!("{}", finished.output.trim_end());
        if counts.failed == 0 {
            bail!("the policy layer's tests didn't run ({})", finished.status);
        }
    }
    Ok(counts)
}

/// Sums up lines such as `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
fn count(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines().filter(|line| line.starts_with("test result:")) {
        for part in line.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(what)) = (words.next().map(str::parse::<usize>), words.next()) else {
                continue;
            };
            match what {
                "passed" => counts.passed += number,
                "failed" => counts.failed += number,
                "ignored" => counts.skipped += number,
                _ => {}
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn results_are_counted_from_cargo_output() {
        let output = "running 3 tests\n\
            test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; \
            finished in 0.01s\n";
        let counts = count(output);
        assert_eq!((counts.passed, counts.failed, counts.skipped), (12, 2, 1));
    }
}
