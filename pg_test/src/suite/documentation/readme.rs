//! README.md, taken apart by a Markdown parser.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, anyhow, bail};
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::setup::workspace;

/// What it is made of, as far as tests ask.
enum Block {
    Heading {
        level: usize,
        text: String,
    },
    Code {
        language: String,
        text: String,
    },
    /// The rows below the head.
    Table(Vec<Vec<String>>),
    /// With its `code`.
    Paragraph {
        text: String,
        code: Vec<String>,
    },
}

/// The file's blocks, in order.
pub struct Readme {
    blocks: Vec<Block>,
}

/// An SQL block, and the output shown for it.
#[derive(Debug)]
pub struct Example {
    /// The role that its first line names.
    pub role: String,
    /// The statements.
    pub sql: String,
    /// The text block that follows, if one does.
    pub output: Option<String>,
}

impl Readme {
    /// Reads README.md of this workspace.
    pub fn read() -> Result<Readme> {
        Ok(Readme::parse(&fs::read_to_string(workspace().join("README.md"))?))
    }

    fn parse(markdown: &str) -> Readme {
        let mut blocks = Vec::new();
        let (mut text, mut code, mut rows, mut row) = (String::new(), Vec::new(), Vec::new(), Vec::new());
        let mut language = String::new();
        for event in Parser::new_ext(markdown, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    text.clear();
                    language = match kind {
                        CodeBlockKind::Fenced(language) => language.into_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                }
                Event::Start(Tag::Table(_)) => rows.clear(),
                // The head's cells end in no row of their own.
                Event::Start(Tag::TableRow) => row.clear(),
                Event::Start(Tag::Heading { .. } | Tag::Paragraph | Tag::TableCell) => {
                    text.clear();
                    code.clear();
                }
                Event::Text(part) => text.push_str(&part),
                Event::Code(part) => {
                    text.push_str(&part);
                    code.push(part.into_string());
                }
                Event::SoftBreak | Event::HardBreak => text.push(' '),
                Event::End(TagEnd::CodeBlock) => {
                    blocks.push(Block::Code { language: language.clone(), text: text.clone() });
                }
                Event::End(TagEnd::TableCell) => row.push(text.clone()),
                Event::End(TagEnd::TableRow) => rows.push(row.clone()),
                Event::End(TagEnd::Table) => blocks.push(Block::Table(rows.clone())),
                Event::End(TagEnd::Heading(level)) => {
                    blocks.push(Block::Heading { level: level as usize, text: text.clone() });
                }
                Event::End(TagEnd::Paragraph) => {
                    blocks.push(Block::Paragraph { text: text.clone(), code: code.clone() });
                }
                _ => {}
            }
        }
        Readme { blocks }
    }

    /// Every SQL block, in order.
    pub fn examples(&self) -> Result<Vec<Example>> {
        let mut examples = Vec::new();
        for (at, block) in self.blocks.iter().enumerate() {
            let Block::Code { language, text } = block else { continue };
            if language != "sql" {
                continue;
            }
            let role = text.lines().next().and_then(|line| line.strip_prefix("-- as "));
            let role = role.with_context(|| format!("doesn't begin with `-- as ROLE`:\n{text}"))?.to_owned();
            let output = match self.blocks.get(at + 1) {
                Some(Block::Code { language, text }) if language == "text" => {
                    Some(text.trim_end_matches('\n').to_owned())
                }
                _ => None,
            };
            examples.push(Example { role, sql: text.clone(), output });
        }
        Ok(examples)
    }

    /// The one block of code in a language other than SQL.
    pub fn code(&self, language: &str) -> Result<&str> {
        let blocks = self.blocks.iter().filter_map(|block| match block {
            Block::Code { language: of, text } if of == language => Some(text.as_str()),
            _ => None,
        });
        match blocks.collect::<Vec<_>>().as_slice() {
            [code] => Ok(code),
            found => bail!("{} blocks of {language}", found.len()),
        }
    }

    /// What a console block has one type, of the one that mentions a word.
    pub fn commands_with(&self, word: &str) -> Result<Vec<&str>> {
        let blocks = self.blocks.iter().filter_map(|block| match block {
            Block::Code { language, text } if language == "console" && text.contains(word) => Some(text),
            _ => None,
        });
        match blocks.collect::<Vec<_>>().as_slice() {
            [block] => Ok(block.lines().filter_map(|line| line.strip_prefix("$ ")).collect()),
            found => bail!("{} console blocks with {word:?}", found.len()),
        }
    }

    /// The rows of the first table below a heading, `N` columns each.
    pub fn table<const N: usize>(&self, heading: &str) -> Result<impl Iterator<Item = [String; N]> + use<N>> {
        let start = self.heading(heading).with_context(|| format!("no heading {heading}"))?;
        let blocks = self.blocks.iter().skip(start + 1);
        let mut section = blocks.take_while(|block| !matches!(block, Block::Heading { .. }));
        let Some(Block::Table(rows)) = section.find(|block| matches!(block, Block::Table(_))) else {
            bail!("no table below {heading}")
        };
        let mut whole: Vec<[String; N]> = Vec::new();
        for row in rows {
            let cells = <[String; N]>::try_from(row.clone());
            whole.push(cells.map_err(|row| anyhow!("a row of {} columns: {row:?}", row.len()))?);
        }
        Ok(whole.into_iter())
    }

    /// The headings one level below a heading that have a `(`: those of functions.
    pub fn headings_below(&self, heading: &str) -> Vec<String> {
        let Some(start) = self.heading(heading) else { return Vec::new() };
        let mut found = Vec::new();
        for block in self.blocks.iter().skip(start + 1) {
            match block {
                Block::Heading { level: ..=2, .. } => break,
                Block::Heading { text, .. } if text.contains('(') => found.push(text.clone()),
                _ => {}
            }
        }
        found
    }

    /// Every `code` of the one paragraph that says something.
    pub fn code_of_the_paragraph_with(&self, words: &str) -> Result<BTreeSet<String>> {
        let paragraphs = self.blocks.iter().filter_map(|block| match block {
            Block::Paragraph { text, code } if text.contains(words) => Some(code),
            _ => None,
        });
        match paragraphs.collect::<Vec<_>>().as_slice() {
            [code] => Ok(code.iter().cloned().collect()),
            found => bail!("{} paragraphs say {words:?}", found.len()),
        }
    }

    fn heading(&self, heading: &str) -> Option<usize> {
        self.blocks.iter().position(|block| matches!(block, Block::Heading { text, .. } if text == heading))
    }
}
