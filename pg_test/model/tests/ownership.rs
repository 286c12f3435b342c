//! All interleavings within the bounds of each scene, and the harm that each mutation does.
//!
//! Lines that begin with `model:` are what `cargo verify` shows.

use std::collections::BTreeSet;
use std::time::Instant;

use ownership_model::{Mutation, Protocol, SCENES, Scene};
use stateright::{Checker, Expectation, HasDiscoveries, Model, Path, Property};

/// As many as the smallest machine has cores.
const THREADS: usize = 2;

/// Whether what a search has found for a property is a counterexample, not an example.
fn is_failure(properties: &[Property<Protocol>], name: &str) -> bool {
    properties.iter().any(|property| property.name == name && property.expectation != Expectation::Sometimes)
}

#[test]
fn protocol_is_right_in_every_interleaving() -> Result<(), String> {
    let all = Protocol { scene: &SCENES[0], mutation: None }.properties();
    let examples = all.iter().filter(|property| property.expectation == Expectation::Sometimes);
    let mut unreached: BTreeSet<&str> = examples.map(|property| property.name).collect();
    let (mut states, start) = (0, Instant::now());
    for scene in &SCENES {
        let protocol = Protocol { scene, mutation: None };
        let properties = protocol.properties();
        let begun = Instant::now();
        let checker = protocol.checker().threads(THREADS).spawn_bfs().join();
        let found = checker.discoveries();
        for (name, path) in &found {
            if is_failure(&properties, name) {
                return Err(format!("{}: not so: {name}\n{}", scene.name, told(path)));
            }
        }
        states += checker.unique_state_count();
        println!(
            "model: {}: {} states, {} steps, up to {} in a run, {:.1?}",
            scene.name,
            checker.unique_state_count(),
            checker.state_count(),
            checker.max_depth() - 1,
            begun.elapsed()
        );
        for property in properties.iter().filter(|property| found.contains_key(property.name)) {
            unreached.remove(property.name);
        }
    }
    println!("model: {states} states in all, {:.1?}", start.elapsed());
    // A model in which nothing of interest happens is right, too.
    if unreached.is_empty() { Ok(()) } else { Err(format!("never reached: {unreached:?}")) }
}

#[test]
fn every_mutation_is_caught() -> Result<(), String> {
    for (mutation, scene, property) in Mutation::HARM {
        let scene = Scene::named(scene).ok_or(scene)?;
        let protocol = Protocol { scene, mutation: Some(mutation) };
        let until = HasDiscoveries::AllOf(BTreeSet::from([property]));
        // By one thread the search finds a shortest way first.
        let checker = protocol.checker().finish_when(until).spawn_bfs().join();
        let path = checker.discovery(property).ok_or(format!("{mutation:?} goes unnoticed in {}", scene.name))?;
        println!(
            "model: {mutation:?} breaks \"{property}\" after {} states:\n    {}",
            checker.unique_state_count(),
            told(&path)
        );
    }
    Ok(())
}

/// The steps of a counterexample; the numbers are the sessions, in the scene's order.
fn told(path: &Path<ownership_model::State, ownership_model::Action>) -> String {
    let steps: Vec<String> = path.clone().into_actions().iter().map(|action| format!("{action:?}")).collect();
    steps.join(" · ")
}
