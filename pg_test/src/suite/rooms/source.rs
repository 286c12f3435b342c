//! A Rust file as the rooms' rules see it: the paths that it names, from the crate's root on, where it is unsafe and
//! where it may panic. Comments and strings are no code, and macros' bodies are.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use walkdir::WalkDir;

use crate::setup::workspace;

const PANICKING_METHODS: [&str; 4] = ["unwrap", "expect", "unwrap_err", "expect_err"];
const PANICKING_MACROS: [&str; 3] = ["panic", "todo", "unimplemented"];

/// Something found in a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// Relative to the workspace.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
    /// What was found there.
    pub what: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// What one file holds.
#[derive(Debug)]
pub struct Source {
    /// Relative to the workspace.
    pub file: PathBuf,
    /// Every path, those of `use` and of macros' bodies included; `self` and `super` resolved.
    pub paths: Vec<Place>,
    /// Every `unsafe`.
    pub unsafes: Vec<Place>,
    /// Every call that panics by design, outside of tests.
    pub panics: Vec<Place>,
}

impl Source {
    /// Reads every Rust file below a folder of the workspace.
    pub fn all(folder: &str) -> Result<Vec<Source>> {
        files(folder)?.into_iter().map(|file| Source::read(&file)).collect()
    }

    fn read(file: &Path) -> Result<Source> {
        let text = fs::read_to_string(workspace().join(file))?;
        Source::parse(file, &text).with_context(|| file.display().to_string())
    }

    fn parse(file: &Path, text: &str) -> Result<Source> {
        let source = Source { file: file.to_owned(), paths: Vec::new(), unsafes: Vec::new(), panics: Vec::new() };
        let module = module_of(file);
        let in_tests = module.last().is_some_and(|name| name == "tests");
        let mut reader = Reader { source, module, in_tests };
        let tokens: TokenStream = syn::parse_str(text)?;
        reader.look_for_unsafe(tokens.clone());
        reader.visit_file(&syn::parse2(tokens)?);
        Ok(reader.source)
    }
}

/// Every Rust file below a folder of the workspace.
pub fn files(folder: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in WalkDir::new(workspace().join(folder)).sort_by_file_name() {
        let path = entry?.into_path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path.strip_prefix(workspace())?.to_owned());
        }
    }
    ensure!(!files.is_empty(), "no Rust file below {folder}");
    Ok(files)
}

/// Whether a path is `root` or below it.
pub fn under(path: &str, root: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `src/pg/hooks/mod.rs` → pg, hooks; `src/policy/surface_tests.rs`, which surface.rs includes → policy, surface, tests.
fn module_of(file: &Path) -> Vec<String> {
    let below = file.components().skip_while(|part| part.as_os_str() != "src").skip(1);
    let mut module: Vec<String> = below.map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    let Some(last) = module.pop() else { return module };
    match last.trim_end_matches(".rs") {
        "mod" | "lib" | "main" => {}
        name => match name.strip_suffix("_tests") {
            Some(tested) => module.extend([tested.to_owned(), "tests".to_owned()]),
            None => module.push(name.to_owned()),
        },
    }
    module
}

/// `#[cfg(test)]`
fn only_in_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
}

struct Reader {
    source: Source,
    /// Where we are, from the crate's root on.
    module: Vec<String>,
    in_tests: bool,
}

impl Reader {
    fn place(&self, at: &impl Spanned, what: String) -> Place {
        Place { file: self.source.file.clone(), line: at.span().start().line, what }
    }

    fn path(&mut self, at: &impl Spanned, segments: &[String]) {
        if !segments.is_empty() {
            let place = self.place(at, self.absolute(segments).join("::"));
            self.source.paths.push(place);
        }
    }

    fn absolute(&self, segments: &[String]) -> Vec<String> {
        let ups = segments.iter().take_while(|segment| *segment == "super" || *segment == "self").count();
        if ups == 0 {
            return segments.to_vec();
        }
        let climbed = segments.iter().filter(|segment| *segment == "super").count();
        let kept = self.module.len().saturating_sub(climbed);
        let from_root = ["crate".to_owned()].into_iter().chain(self.module.iter().take(kept).cloned());
        from_root.chain(segments.iter().skip(ups).cloned()).collect()
    }

    fn panic(&mut self, name: &Ident, of: &[&str]) {
        if !self.in_tests && of.iter().any(|known| name == known) {
            let place = self.place(name, name.to_string());
            self.source.panics.push(place);
        }
    }

    fn uses(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.uses(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.uses(item, before)),
            syn::UseTree::Name(name) if name.ident == "self" => self.path(tree, before),
            syn::UseTree::Name(name) => self.path(tree, &with(&name.ident)),
            syn::UseTree::Rename(rename) => self.path(tree, &with(&rename.ident)),
            // Whatever the glob brings is below the path before it.
            _ => self.path(tree, before),
        }
    }

    /// A macro's body: no syntax tree, but the same words.
    fn body(&mut self, tokens: TokenStream) {
        let (mut path, mut colons, mut dot) = (Vec::<Ident>::new(), 0, false);
        for token in tokens {
            match &token {
                TokenTree::Ident(name) => {
                    if dot {
                        self.panic(name, &PANICKING_METHODS);
                    }
                    if colons != 2 {
                        self.flush(&mut path);
                    }
                    path.push(name.clone());
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Punct(mark) if mark.as_char() == '!' => {
                    if let Some(name) = path.last().cloned() {
                        self.panic(&name, &PANICKING_MACROS);
                    }
                    self.flush(&mut path);
                }
                TokenTree::Group(group) => {
                    self.flush(&mut path);
                    self.body(group.stream());
                }
                _ => self.flush(&mut path),
            }
            colons = 0;
            dot = matches!(&token, TokenTree::Punct(mark) if mark.as_char() == '.');
        }
        self.flush(&mut path);
    }

    fn flush(&mut self, path: &mut Vec<Ident>) {
        let segments: Vec<String> = path.iter().map(ToString::to_string).collect();
        if let Some(first) = path.first() {
            self.path(first, &segments);
        }
        path.clear();
    }

    fn look_for_unsafe(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Ident(word) if word == "unsafe" => {
                    let place = self.place(&word, "unsafe".to_owned());
                    self.source.unsafes.push(place);
                }
                TokenTree::Group(group) => self.look_for_unsafe(group.stream()),
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let outside = self.in_tests;
        self.in_tests |= module.attrs.iter().any(only_in_tests);
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
        self.in_tests = outside;
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.uses(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(path, &segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let Some(name) = call.path.segments.last() {
            self.panic(&name.ident, &PANICKING_MACROS);
        }
        self.body(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.panic(&call.method, &PANICKING_METHODS);
        visit::visit_expr_method_call(self, call);
    }

    /// `pub(super)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_seen_wherever_it_stands_and_comments_are_not() -> Result<()> {
        let text = "
            //! pgrx, unsafe, .unwrap()
            use super::{backend::Trust, super::pg::{self, hooks as h}};
            /// `panic!`
            fn f(x: Option<std::net::TcpStream>) { x.expect(\"unsafe\"); log!(std::time::Instant::now().unwrap(), panic!()); }
            #[cfg(test)] mod tests { use super::super::rules; fn g() { panic!() } }
            #[unsafe(no_mangle)] fn h() {}";
        let source = Source::parse(Path::new("src/policy/command.rs"), text)?;
        let named = |path: &str| source.paths.iter().any(|place| place.what == path);
        for path in ["crate::policy::backend::Trust", "crate::pg", "crate::pg::hooks", "std::net::TcpStream"] {
            ensure!(named(path), "{path}: {source:?}");
        }
        ensure!(named("std::time::Instant::now") && named("crate::policy::rules"), "{source:?}");
        ensure!(!source.paths.iter().any(|place| under(&place.what, "pgrx")), "{source:?}");
        let lines = |places: &[Place]| places.iter().map(|place| place.line).collect::<Vec<_>>();
        ensure!(lines(&source.panics) == [5, 5, 5], "{source:?}");
        ensure!(lines(&source.unsafes) == [7], "{source:?}");
        Ok(())
    }
}
