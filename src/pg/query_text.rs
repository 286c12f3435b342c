//! The client's statement, as the setting `holdfast.audit_query` allows an event to keep it. Where literals begin and end
//! the server's own scanner says: a lexer of ours would be wrong one day, and show a secret.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};

use pgrx::{PgMemoryContexts, PgTryBuilder, pg_sys};

use super::compat;
use super::gucs::{self, AuditQuery};
use crate::policy::query_text::{self, End, LONGEST, Scan, Token};
use crate::policy::redaction;

/// How much of a statement is looked at, in bytes. No event keeps as much; a literal may be longer than that.
const WINDOW: usize = 256 * 1024;

/// How much is kept of a statement as it is.
const FULL: usize = 8 * 1024;

/// A statement that was read, told from others by the client's message and where it lies.
#[derive(PartialEq)]
struct Reading {
    message: i64,
    statement: *const c_char,
    how: AuditQuery,
}

thread_local! {
    /// The last one, and what may be kept of it: a statement can earn a record for each of its rows.
    static LAST: RefCell<Option<(Reading, Option<String>)>> = const { RefCell::new(None) };
}

/// The statement that the client sent, as far as an event may have it.
pub fn of_client() -> Option<String> {
    // SAFETY: a read of the session's global, and a function without precondition.
    let (statement, message) = unsafe { (pg_sys::debug_query_string, compat::GetCurrentStatementStartTimestamp()) };
    if statement.is_null() {
        return None;
    }
    let reading = Reading { message, statement, how: gucs::audit_query() };
    let known = LAST.with(|last| match &*last.borrow() {
        Some((of, text)) if *of == reading => Some(text.clone()),
        _ => None,
    });
    known.unwrap_or_else(|| {
        // SAFETY: a C string as long as the message is worked on.
        let text = kept_of(unsafe { CStr::from_ptr(statement) }.to_bytes(), reading.how);
        LAST.with(|last| last.replace(Some((reading, text.clone()))));
        text
    })
}

fn kept_of(statement: &[u8], how: AuditQuery) -> Option<String> {
    match how {
        AuditQuery::none => None,
        AuditQuery::full => {
            let text = beginning(statement, WINDOW);
            let text = redacted(&text, text.len() == statement.len());
            let kept = beginning(text.as_bytes(), FULL);
            let cut = if kept.len() < text.len() || statement.len() > WINDOW { "…" } else { "" };
            Some(format!("{kept}{cut}"))
        }
        AuditQuery::normalized => {
            let text = beginning(statement, WINDOW);
            normalized(&text, text.len() == statement.len())
        }
    }
}

/// As much of a text as fits, without a character that is cut.
fn beginning(text: &[u8], most: usize) -> Cow<'_, str> {
    let mut end = text.len().min(most);
    while end < text.len() && end > 0 && text[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    String::from_utf8_lossy(&text[..end])
}

fn normalized(text: &str, whole: bool) -> Option<String> {
    query_text::normalized(text, &scans(text), whole)
}

fn redacted(text: &str, whole: bool) -> Cow<'_, str> {
    redaction::redacted(text, &scans(text), whole)
}

fn scans(text: &str) -> Vec<Scan> {
    let mut scans = vec![scan(text, true)];
    // The setting may have changed since the server read the text, even within it.
    if text.contains('\\') {
        scans.push(scan(text, false));
    }
    scans
}

fn scan(text: &str, standard_strings: bool) -> Scan {
    let mut tokens = Vec::new();
    let mut memory = PgMemoryContexts::new("holdfast query text");
    // SAFETY: the scanner lives in this memory, which outlives it. Its errors take no lock and no pin, so they may be
    // swallowed without a subtransaction; what they leave goes with the memory.
    let end = unsafe {
        memory.switch_to(|_| {
            let reading = std::panic::AssertUnwindSafe(|| read(text, standard_strings, &mut tokens));
            PgTryBuilder::new(reading).catch_others(|_| End::Failed).execute()
        })
    };
    Scan { tokens, end }
}

/// Fills `tokens` until the text ends, or there are more than an event can keep.
unsafe fn read(text: &str, standard_strings: bool, tokens: &mut Vec<Token>) -> End {
    let Ok(text) = std::ffi::CString::new(text) else { return End::Failed };
    let mut extra = pg_sys::core_yy_extra_type::default();
    // SAFETY: the scanner copies the text, and keeps a pointer to `extra`, which outlives it.
    unsafe {
        let scanner = compat::guarded(|| {
            compat::scanner_init(
                text.as_ptr(),
                &raw mut extra,
                &raw const compat::ScanKeywords,
                &raw const compat::ScanKeywordTokens,
            )
        });
        extra.standard_conforming_strings = standard_strings;
        extra.escape_string_warning = false;
        // What was read with \' forbidden has none.
        extra.backslash_quote = pg_sys::BackslashQuoteType::BACKSLASH_QUOTE_ON as c_int;
        let mut kept = 0;
        while kept <= LONGEST {
            let (mut value, mut at) = (pg_sys::core_YYSTYPE::default(), 0);
            let token = compat::guarded(|| compat::core_yylex(&raw mut value, &raw mut at, scanner));
            let Ok(start) = usize::try_from(at) else { return End::Failed };
            if token == 0 {
                return End::Complete;
            }
            // flex ends the token that it has just found with a zero byte, as pg_stat_statements relies on, too.
            let end = start + CStr::from_ptr(extra.scanbuf.add(start)).count_bytes();
            tokens.push(Token { start, end, keyword: token != compat::IDENT });
            kept += (end - start).min(2);
        }
        End::Stopped
    }
}
