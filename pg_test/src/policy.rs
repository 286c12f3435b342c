//! What cargo tests without a server: the pure layer (`cargo test --lib` of the extension) and the model of the ownership
//! protocol (`cargo test` of its package).

use std::process::Command;

use anyhow::{Result, bail};

use crate::launcher::run_noting;
use crate::setup::Postgres;
use crate::suite::Counts;
use crate::ui::Ui;

/// Runs the pure layer's tests, in the same build environment as the package; prints cargo's words on a failure.
pub fn run(postgres: &Postgres, filter: Option<&str>, ui: &Ui) -> Result<Counts> {
    let environment = postgres.build_environment();
    let mut test = environment.cargo();
    test.args(["test", "--package", "holdfast", "--lib"]).args(environment.features());
    if let Some(filter) = filter {
        test.args(["--", filter]);
    }
    Ok(run_tests(test, "Testing the policy layer", ui)?.0)
}

/// Checks the model, unless a filter names something else; prints how many states it has.
pub fn run_model(postgres: &Postgres, filter: Option<&str>, ui: &Ui) -> Result<Counts> {
    if filter.is_some_and(|filter| !filter.starts_with("model")) {
        return Ok(Counts::default());
    }
    let mut test = postgres.build_environment().cargo();
    test.args(["test", "--package", "ownership_model", "--test", "ownership", "--", "--nocapture", "--test-threads=1"]);
    let (counts, output) = run_tests(test, "Checking the model of the ownership protocol", ui)?;
    for line in output.lines().filter_map(|line| line.split_once("model: ")) {
        println!("    {}", line.1);
    }
    Ok(counts)
}

fn run_tests(test: Command, what: &str, ui: &Ui) -> Result<(Counts, String)> {
    let finished = ui.step(what, |step| run_noting(test, step))?;
    let counts = count(&finished.output);
    if !finished.status.success() {
        println!("{}", finished.output.trim_end());
        if counts.failed == 0 {
            bail!("{what}: the tests didn't run ({})", finished.status);
        }
    }
    Ok((counts, finished.output))
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
