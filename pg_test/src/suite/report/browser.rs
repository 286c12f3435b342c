//! A page in headless Chromium: what its console says, whether it fits a screen, how it looks.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::launcher::run;
use crate::setup::{Program, workspace};

/// The browser, as Debian calls it.
const CHROMIUM: &str = "chromium";

/// What tests with it need.
pub(super) const PROGRAM: Program = Program::Debian(CHROMIUM, CHROMIUM);

/// Widths of screens: a desk's and a phone's.
const WIDTHS: [u32; 2] = [1280, 360];

/// The page shows no error and is nowhere wider than the screen. Screenshots are left in target/report.
pub(super) fn ensure_fits(folder: &Path, name: &str, page: &str) -> Result<()> {
    let file = folder.join(format!("{name}.html"));
    fs::write(&file, page)?;
    let url = format!("file://{}", file.display());
    let shots = workspace().join("target/report");
    fs::create_dir_all(&shots)?;
    for width in WIDTHS {
        let shot = shots.join(format!("{name}-{width}.png"));
        let said = browse(
            folder,
            &[&format!("--window-size={width},4000"), &format!("--screenshot={}", shot.display()), &url],
        )?;
        // What the page's own policy stops (scripts, requests) is told there as well.
        ensure!(!said.contains("CONSOLE"), "the console at {width}: {said}");
        ensure!(fs::metadata(&shot).is_ok_and(|file| file.len() > 10_000), "no screenshot: {said}");
    }
    let frames = folder.join(format!("{name}-frames.html"));
    fs::write(&frames, framed(page))?;
    let dom = browse(folder, &["--dump-dom", &format!("file://{}", frames.display())])?;
    let measured = dom.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    let (measured, _) = measured.with_context(|| format!("no measures: {dom}"))?;
    let expected: Vec<String> = WIDTHS.iter().map(|width| format!("{width}: {width}, dark: {width}")).collect();
    ensure!(measured == expected.join("; "), "width: width of the content: {measured}");
    Ok(())
}

/// A page that shows another one in frames of each width, and measures how wide its content is.
fn framed(page: &str) -> String {
    let content = page.replace('&', "&amp;").replace('"', "&quot;");
    let frame =
        |width: &u32| format!("<iframe style=\"width:{width}px;height:900px;border:0\" srcdoc=\"{content}\"></iframe>");
    let frames: String = WIDTHS.iter().map(frame).collect();
    format!(
        "<!DOCTYPE html><title>not measured</title><body>{frames}<script>
         addEventListener('load', () => {{
             const wide = frame => frame.contentDocument.documentElement.scrollWidth;
             document.title = Array.from(document.querySelectorAll('iframe'), frame => {{
                 const light = wide(frame);
                 frame.style.colorScheme = 'dark';
                 return `${{frame.clientWidth}}: ${{light}}, dark: ${{wide(frame)}}`;
             }}).join('; ');
         }});
         </script>"
    )
}

fn browse(folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut browser = Command::new(CHROMIUM);
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]);
    browser.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    browser.args(["--enable-logging=stderr", "--virtual-time-budget=5000"]);
    browser.arg(format!("--user-data-dir={}", folder.join("profile").display())).args(arguments);
    browser.env("HOME", folder);
    run(browser)?.succeeded(CHROMIUM)
}
