//! `--call=outline` and `--call=targets`: what can be built, and what a build can be given.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use frontend::outline::{self, Lent, Outline, OutlineArg, Target};
use serde::Serialize;

use super::table::table;
use super::{Call, Location, Subject};
use crate::exit::Problem;

#[derive(Debug, Serialize)]
struct OutlineJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<ArgJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<LentJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ssh: Vec<LentJson<'a>>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct ArgJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    value: &'a str,
    location: Location,
}

#[derive(Debug, Serialize)]
struct LentJson<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    location: Location,
}

#[derive(Debug, Serialize)]
struct TargetsJson<'a> {
    targets: Vec<TargetJson<'a>>,
    sources: [String; 1],
}

#[derive(Debug, Serialize)]
struct TargetJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    base: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    platform: &'a str,
    location: Location,
}

pub(super) fn outline(call: Call, subject: &Subject) -> Result<(), Problem> {
    let outline = outline::outline(&subject.source, &subject.parsed, &subject.options);
    let outline = outline.map_err(|errors| subject.failed(&errors))?;
    let json = OutlineJson {
        name: &outline.name,
        description: &outline.description,
        args: outline.args.iter().map(arg_json).collect(),
        secrets: outline.secrets.iter().map(lent_json).collect(),
        ssh: outline.ssh.iter().map(lent_json).collect(),
        sources: sources(subject),
    };
    call.print(&json, || outline_text(&outline))
}

fn arg_json(arg: &OutlineArg) -> ArgJson<'_> {
    ArgJson {
        name: &arg.name,
        description: &arg.description,
        value: &arg.value,
        location: Location::new(Some(arg.lines)),
    }
}

fn lent_json(lent: &Lent) -> LentJson<'_> {
    LentJson {
        name: &lent.id,
        required: lent.required,
        location: Location::new(Some(lent.lines)),
    }
}

/// The file, for those who read locations.
fn sources(subject: &Subject) -> [String; 1] {
    [BASE64_STANDARD.encode(&subject.source.text)]
}

fn outline_text(outline: &Outline) -> String {
    let mut text = String::new();
    if !outline.name.is_empty() {
        let mut rows = vec![["TARGET:", outline.name.as_str()]];
        if !outline.description.is_empty() {
            rows.push(["DESCRIPTION:", &outline.description]);
        }
        text.push_str(&format!("{}\n", table(&rows, 1)));
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"]];
        let args = outline.args.iter();
        rows.extend(args.map(|arg| [arg.name.as_str(), &arg.value, &arg.description]));
        text.push_str(&format!("{}\n", table(&rows, 3)));
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![[title, "REQUIRED"]];
            rows.extend(
                list.iter()
                    .map(|lent| [lent.id.as_str(), if lent.required { "true" } else { "" }]),
            );
            text.push_str(&format!("{}\n", table(&rows, 3)));
        }
    }
    text
}

pub(super) fn targets(call: Call, subject: &Subject) -> Result<(), Problem> {
    let targets = outline::targets(&subject.parsed).map_err(|errors| subject.failed(&errors))?;
    let json = TargetsJson {
        targets: targets.iter().map(target_json).collect(),
        sources: sources(subject),
    };
    call.print(&json, || {
        let names: Vec<String> = targets.iter().map(shown_name).collect();
        let mut rows = vec![["TARGET", "DESCRIPTION"]];
        rows.extend(
            names
                .iter()
                .zip(&targets)
                .map(|(name, target)| [name.as_str(), &target.description]),
        );
        table(&rows, 1)
    })
}

fn target_json(target: &Target) -> TargetJson<'_> {
    TargetJson {
        name: &target.name,
        default: target.is_default,
        description: &target.description,
        base: &target.base,
        platform: &target.platform,
        location: Location::new(Some(target.lines)),
    }
}

fn shown_name(target: &Target) -> String {
    match (target.name.as_str(), target.is_default) {
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
        (name, false) => name.to_owned(),
    }
}
