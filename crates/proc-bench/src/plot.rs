//! A run as a picture: for each case the median, least and greatest sample of each contender, and
//! how the cost of large pools grows.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::fit::{Fit, points};
use crate::record::{Measured, Record, Summary, show};
use crate::table::{grouped, heading};
use crate::workload::Unit;

const WIDTH: u32 = 1000;
const COLUMNS: usize = 2;
const ROW_HEIGHT: u32 = 18;
const FRAME_HEIGHT: u32 = 70;
const FITS_HEIGHT: u32 = 640;
const FONT: &str = "sans-serif";
/// Size of letters. Plotters makes it 11.3 pixels.
const FONT_SIZE: u32 = 14;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The picture of one case.
struct Panel {
    heading: String,
    unit: Unit,
    rows: Vec<(String, Summary)>,
}

/// Returns the picture of a run as SVG.
pub(crate) fn svg(record: &Record) -> Result<String> {
    let panels: Vec<Panel> = record.results.iter().map(Panel::of).collect::<Result<Vec<_>>>()?;
    let panels: Vec<Panel> = panels.into_iter().filter(|panel| !panel.rows.is_empty()).collect();
    let fits: Vec<String> = record.contenders.iter().map(|one| one.contender.clone()).collect();
    let fits: Vec<(String, Fit)> = fits
        .into_iter()
        .filter_map(|name| Some((name.clone(), Fit::of(&points(&record.results, &name))?)))
        .collect();

    let heights: Vec<u32> = panels
        .chunks(COLUMNS)
        .map(|line| line.iter().map(Panel::height).max().unwrap_or(0))
        .collect();
    let height = heights.iter().sum::<u32>() + if fits.is_empty() { 0 } else { FITS_HEIGHT };
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height.max(1))).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        let mut top = 0;
        for (line, height) in panels.chunks(COLUMNS).zip(heights) {
            let width = WIDTH / COLUMNS as u32;
            for (column, panel) in line.iter().enumerate() {
                let left = (column as u32 * width) as i32;
                let area = root.clone().shrink((left, top), (width, height));
                panel.draw(&area)?;
            }
            top += height as i32;
        }
        if !fits.is_empty() {
            draw_fits(&root.shrink((0, top), (WIDTH, FITS_HEIGHT)), record, &fits)?;
        }
    }
    Ok(shorter(&text))
}

/// The same picture in fewer bytes, since the page that shows it must weigh less than 300 KB: lines
/// of one style become one path, and one style sheet replaces the attributes that most texts and
/// dots repeat.
fn shorter(svg: &str) -> String {
    const STYLE: &str = "<style>text{font:11.3px sans-serif;text-anchor:end}\
        .middle{text-anchor:middle}.start{text-anchor:start}\
        @media(prefers-color-scheme:dark){svg{filter:invert(.9)hue-rotate(180deg)}}</style>";
    const REPEATED: [(&str, &str); 10] = [
        (" opacity=\"1\"", ""),
        (" stroke-width=\"1\"", ""),
        (" stroke=\"none\"", ""),
        (" fill=\"#000000\"", ""),
        (" font-family=\"sans-serif\"", ""),
        (" font-size=\"11.290322580645162\"", ""),
        (" text-anchor=\"end\"", ""),
        (" text-anchor=", " class="),
        // The words of a text have a line of their own.
        ("\">\n", "\">"),
        ("\n</text>", "</text>"),
    ];
    let mut elements: Vec<String> = Vec::new();
    let mut paths: BTreeMap<String, usize> = BTreeMap::new();
    for element in svg.lines() {
        let Some((style, points)) = line(element) else {
            elements.push(element.to_owned());
            continue;
        };
        // All lines of a style are drawn where its first line was. So they lie below the dots that
        // are drawn later.
        let place = *paths.entry(style).or_insert_with_key(|style| {
            elements.push(format!("<path{style} d=\""));
            elements.len() - 1
        });
        elements[place] += &format!("M{points}");
    }
    for place in paths.into_values() {
        elements[place] += "\"/>";
    }
    let all = elements.join("\n") + "\n";
    let short = REPEATED.iter().fold(all, |svg, (long, short)| svg.replace(long, short));
    short.replacen("\">", &format!("\">{STYLE}\n"), 1)
}

/// The style and the points of an element, if it is a line of one or more parts.
fn line(element: &str) -> Option<(String, String)> {
    if let Some(polyline) = element.strip_prefix("<polyline") {
        let (style, points) = polyline.split_once(" points=\"")?;
        return Some((style.to_owned(), points.strip_suffix(" \"/>")?.to_owned()));
    }
    let (style, ends) = element.strip_prefix("<line")?.split_once(" x1=")?;
    let ends: Vec<&str> = ends.split('"').skip(1).step_by(2).collect();
    let [x1, y1, x2, y2] = ends[..] else { return None };
    Some((format!("{style} fill=\"none\""), format!("{x1},{y1} {x2},{y2}")))
}

impl Panel {
    fn of(measured: &Measured) -> Result<Panel> {
        let rows = measured.rows.iter().filter_map(|row| {
            let summary = measured.summary(&row.contender)?;
            Some((measured.label(&row.contender).to_owned(), *summary))
        });
        Ok(Panel {
            heading: heading(measured)?,
            unit: measured.workload()?.unit,
            rows: rows.collect(),
        })
    }

    fn height(&self) -> u32 {
        FRAME_HEIGHT + ROW_HEIGHT * self.rows.len() as u32
    }

    /// Draws, for each contender, a line from the least to the greatest sample and a dot at the
    /// median, on a logarithmic scale.
    fn draw(&self, area: &Area<'_>) -> Result<()> {
        // The decades of sizes are 10 KiB, 100 KiB, and so on.
        let unit = if self.unit == Unit::Bytes { 1024.0 } else { 1.0 };
        let least = self.rows.iter().map(|(_, row)| row.least).fold(f64::INFINITY, f64::min);
        let greatest = self.rows.iter().map(|(_, row)| row.greatest).fold(0.0, f64::max);
        let area = area.clone().shrink((0, 0), (WIDTH / COLUMNS as u32, self.height()));
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.heading, (FONT, FONT_SIZE))
            .margin(8)
            .margin_right(30)
            .x_label_area_size(24)
            .y_label_area_size(130)
            .build_cartesian_2d(
                decades(least.max(1e-9) / unit, greatest.max(2e-9) / unit).log_scale(),
                (0..self.rows.len() - 1).into_segmented(),
            )
            .map_err(drawing)?;
        let name = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(row) | SegmentValue::Exact(row) => {
                // The first row is at the top, as in the tables.
                let row = self.rows.len().saturating_sub(row + 1);
                self.rows.get(row).map_or_else(String::new, |(name, _)| name.clone())
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(8)
            .x_label_formatter(&|value| match self.unit {
                Unit::Seconds => show(*value, self.unit),
                Unit::Bytes => format!("{} KiB", grouped(value.round() as usize)),
            })
            .y_labels(self.rows.len())
            .y_label_formatter(&name)
            .label_style((FONT, FONT_SIZE))
            .draw()
            .map_err(drawing)?;
        for (row, (name, summary)) in self.rows.iter().rev().enumerate() {
            let at = SegmentValue::CenterOf(row);
            let style = colour(name).stroke_width(2);
            let line = [(summary.least / unit, at.clone()), (summary.greatest / unit, at.clone())];
            let line = PathElement::new(line.to_vec(), style);
            let dot = Circle::new((summary.median / unit, at), 4, colour(name).filled());
            chart.draw_series([line]).map_err(drawing)?;
            chart.draw_series([dot]).map_err(drawing)?;
        }
        Ok(())
    }
}

/// Returns the least range of whole decades around these figures. The axis then marks at least two
/// powers of ten.
fn decades(least: f64, greatest: f64) -> std::ops::Range<f64> {
    let power = |exponent: f64| 10_f64.powf(exponent);
    0.99 * power((least / 1.1).log10().floor())..1.01 * power((greatest * 1.1).log10().ceil())
}

/// Draws the costs of large pools: dots for measured costs, lines for the fits.
fn draw_fits(area: &Area<'_>, record: &Record, fits: &[(String, Fit)]) -> Result<()> {
    let all = fits.iter().flat_map(|(name, _)| points(&record.results, name)).collect::<Vec<_>>();
    let mut amounts: Vec<f64> = all.iter().map(|&(_, tasks, _)| tasks).collect();
    amounts.sort_by(f64::total_cmp);
    amounts.dedup();
    let cost = |better: fn(f64, f64) -> f64, start| {
        all.iter().map(|&(_, _, cost)| cost).fold(start, better)
    };
    let (least, greatest) = (cost(f64::min, f64::INFINITY), cost(f64::max, 0.0));
    let most = all.iter().map(|&(workers, _, _)| workers).fold(1.0, f64::max);
    for (part, tasks) in area.split_evenly((1, amounts.len())).iter().zip(amounts) {
        let mut chart = ChartBuilder::on(part)
            .caption(
                format!("pool with {} tiny tasks: cost by workers", grouped(tasks as usize)),
                (FONT, FONT_SIZE),
            )
            .margin(8)
            .margin_right(30)
            .x_label_area_size(24)
            .y_label_area_size(80)
            .build_cartesian_2d(
                (0.9..most * 1.2).log_scale(),
                // The legend lies below nearly all costs.
                (least / 1000.0..greatest * 2.0).log_scale(),
            )
            .map_err(drawing)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("workers")
            .x_label_formatter(&|workers| workers.to_string())
            .y_label_formatter(&|value| show(*value, Unit::Seconds))
            .label_style((FONT, FONT_SIZE))
            .draw()
            .map_err(drawing)?;
        for (name, fit) in fits {
            let colour = colour(name);
            let workers = (0..=30).map(|step| most.powf(f64::from(step) / 30.0));
            let line = workers.map(|workers| (workers, fit.cost(workers, tasks)));
            chart
                .draw_series(LineSeries::new(line, colour.stroke_width(1)))
                .map_err(drawing)?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + 6, y), 4, colour.filled()));
            let measured = points(&record.results, name).into_iter();
            let dots = measured
                .filter(|&(_, amount, _)| amount == tasks)
                .map(|(workers, _, cost)| Circle::new((workers, cost), 4, colour.filled()));
            chart.draw_series(dots).map_err(drawing)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, FONT_SIZE))
            .draw()
            .map_err(drawing)?;
    }
    Ok(())
}

/// The colour of a contender. Contenders of one family have similar colours.
fn colour(contender: &str) -> RGBColor {
    match contender {
        "proc-core" | "proc-cluster" => RGBColor(200, 30, 30),
        "proc-core-fork" => RGBColor(225, 90, 90),
        "proc-core-spawn" => RGBColor(190, 60, 130),
        "limit" | "bare" => BLACK,
        "threads" => RGBColor(120, 120, 120),
        "procspawn" => RGBColor(150, 90, 20),
        "crossmist" => RGBColor(200, 150, 60),
        "cpython-fork" => RGBColor(20, 60, 150),
        "cpython-forkserver" => RGBColor(60, 110, 200),
        "cpython-spawn" => RGBColor(80, 135, 215),
        "futures" | "ray" => RGBColor(20, 130, 130),
        "mpire" | "mpi4py" => RGBColor(20, 120, 40),
        "loky" => RGBColor(90, 160, 50),
        _ => RGBColor(140, 70, 160),
    }
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing: {error}")
}
