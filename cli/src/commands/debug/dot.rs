//! A graph for Graphviz: stages are boxes, images are round; dashed lines are files that are read.

use std::fmt::Write as _;

use frontend::lower::graph::{StageBase, StageEdges};

use super::text::called;

/// The graph of all stages.
pub(super) fn graph(names: &[Option<String>], edges: &[StageEdges]) -> String {
    let mut text = String::from("digraph stages {\n  rankdir=LR;\n");
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "  {line}").expect("strings take all text");
    for index in 0..edges.len() {
        line(format_args!(
            "s{index} [shape=box, label={}];",
            quoted(&called(names, index))
        ));
    }
    for (index, edges) in edges.iter().enumerate() {
        match &edges.base {
            StageBase::Stage(parent) => line(format_args!("s{parent} -> s{index};")),
            StageBase::Image(image) => line(format_args!("{} -> s{index};", quoted(image))),
        }
        for stage in &edges.stages {
            line(format_args!("s{stage} -> s{index} [style=dashed];"));
        }
        for image in &edges.images {
            line(format_args!("{} -> s{index} [style=dashed];", quoted(image)));
        }
    }
    text.push_str("}\n");
    text
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
