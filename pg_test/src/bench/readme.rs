//! README.md's figures: a run's output between two marks, never edited by hand.

use std::fs;

use anyhow::{Context, Result};

use crate::setup::workspace;

/// Where the figures begin. What follows on the line says so to whoever comes to edit them.
pub const BEGIN: &str = "<!-- figures: written by `cargo pg-bench --write-readme` -->";

/// Where they end.
pub const END: &str = "<!-- end of the figures -->";

/// Puts a run's Markdown in the place of what is there.
pub fn write(markdown: &str) -> Result<()> {
    let file = workspace().join("README.md");
    let text = fs::read_to_string(&file)?;
    Ok(fs::write(&file, replace(&text, markdown)?)?)
}

/// What is between the marks.
pub fn read(text: &str) -> Result<&str> {
    let (_, rest) = text.split_once(BEGIN).context("README.md has no place for figures")?;
    let (figures, _) = rest.split_once(END).context("README.md's figures have no end")?;
    Ok(figures.trim())
}

fn replace(text: &str, markdown: &str) -> Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("README.md has no place for figures")?;
    let (_, after) = rest.split_once(END).context("README.md's figures have no end")?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", markdown.trim()))
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, replace};

    #[test]
    fn figures_take_the_place_of_figures() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = replace(&text, "new\n").ok();
        assert_eq!(new.as_deref().and_then(|new| super::read(new).ok()), Some("new"));
        assert_eq!(new, Some(format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n")));
        assert!(replace("nothing", "new").is_err());
    }
}
