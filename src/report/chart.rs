//! The charts, as SVG within the page. Colours that are readable on light and dark; the page's style sheet says what colour
//! text has.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Moves, Refusals};

/// In pixels, where there is room; the page scales a chart down. Small, so that its text stays readable on a phone.
const SIZE: (u32, u32) = (440, 225);

const AXIS: RGBColor = RGBColor(128, 138, 150);
const MOVED: RGBColor = RGBColor(47, 129, 193);
const REFUSED: RGBColor = RGBColor(201, 90, 45);
const OBSERVED: RGBColor = RGBColor(196, 152, 40);

/// Tenants moved, as time went by.
pub(super) fn moves(steps: &[Moves]) -> Option<String> {
    let most = steps.iter().map(|step| step.moved).max()?;
    let labels: Vec<&str> = steps.iter().map(|step| step.at.as_str()).collect();
    draw(&labels, most, |chart| {
        let points = || steps.iter().enumerate().map(|(n, step)| (n as f64 + 0.5, step.moved as f64));
        chart.draw_series(AreaSeries::new(points(), 0.0, MOVED.mix(0.25)))?;
        chart.draw_series(LineSeries::new(points(), MOVED.stroke_width(2)))?;
        Ok(())
    })
}

/// Refusals and would-be refusals, as time went by, on top of each other.
pub(super) fn refusals(steps: &[Refusals]) -> Option<String> {
    let most = steps.iter().map(|step| step.refused + step.observed).max()?;
    let labels: Vec<&str> = steps.iter().map(|step| step.at.as_str()).collect();
    draw(&labels, most, |chart| {
        let bar = |n: usize, from: i64, to: i64, colour: RGBColor| {
            Rectangle::new([(n as f64 + 0.1, from as f64), (n as f64 + 0.9, to as f64)], colour.filled())
        };
        let refused = steps.iter().enumerate().filter(|(_, step)| step.refused > 0);
        chart.draw_series(refused.map(|(n, step)| bar(n, 0, step.refused, REFUSED)))?;
        let observed = steps.iter().enumerate().filter(|(_, step)| step.observed > 0);
        chart.draw_series(observed.map(|(n, step)| bar(n, step.refused, step.refused + step.observed, OBSERVED)))?;
        Ok(())
    })
}

type Chart<'a> = ChartContext<
    'a,
    SVGBackend<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Axes and what `series` draws between them; none if it can't be drawn, since the table beside it tells the same.
fn draw(labels: &[&str], most: i64, series: impl FnOnce(&mut Chart) -> Result<(), Box<dyn Error>>) -> Option<String> {
    let mut svg = String::new();
    let drawn = (|| {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .margin_right(40)
            .x_label_area_size(30)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..labels.len().max(1) as f64, 0.0..(most.max(1) as f64 * 1.08))?;
        let style = ("sans-serif", 15).into_font().color(&AXIS);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(AXIS.mix(0.3))
            .axis_style(AXIS)
            .y_label_style(style.clone())
            .x_label_style(style.pos(Pos::new(HPos::Center, VPos::Top)))
            .x_labels(4)
            .y_labels(5)
            .x_label_formatter(&|at| labels.get(*at as usize).copied().unwrap_or_default().to_owned())
            .y_label_formatter(&|value| whole(*value))
            .draw()?;
        series(&mut chart)?;
        area.present()?;
        Ok::<(), Box<dyn Error>>(())
    })();
    drawn.ok().map(|()| svg)
}

/// Counts are whole; a mark between two of them has no label.
fn whole(value: f64) -> String {
    match value {
        _ if value.fract().abs() > 1e-6 => String::new(),
        1e9.. => format!("{}G", value / 1e9),
        1e6.. => format!("{}M", value / 1e6),
        1e4.. => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    }
}
