//! Which variable has which value where: global arguments, predefined ones, and the scope of a stage.

use std::collections::{BTreeMap, BTreeSet};

use proto::platform::Platform;

use crate::instruction::{Arg, Instruction, Kind};
use crate::lower::LowerOptions;
use crate::lower::expand::Budget;

/// Search path of images that set none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that steer scans; a step never sees them.
const NOT_FOR_STEPS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Proxy variables, in the order in which steps see them.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Variables of one stage at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scope {
    /// `ENV` and `ARG` together, each at the place of its last assignment.
    variables: Vec<(String, String)>,
    /// Names declared with `ARG`, in order of the first declaration.
    declared: Vec<String>,
    /// Names whose present value `ARG` assigned.
    arguments: BTreeSet<String>,
}

impl Scope {
    /// The value of a variable.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Assigns; the variable moves to the end.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.variables.retain(|(known, _)| known != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self.arguments.remove(name);
    }

    /// `ARG name`: the value is nothing if nobody gave one; what `ENV` set then stays.
    pub(crate) fn declare(&mut self, name: &str, value: Option<&str>) {
        if !self.declared.iter().any(|known| known == name) {
            self.declared.push(name.to_owned());
        }
        if let Some(value) = value {
            self.set(name, value);
            self.arguments.insert(name.to_owned());
        }
    }

    /// Names of those variables of a step that are build arguments, sorted.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let visible = |name: &&String| !NOT_FOR_STEPS.contains(&name.as_str());
        self.arguments.iter().filter(visible).cloned().collect()
    }

    /// Whether `ARG` named it.
    pub(crate) fn is_declared(&self, name: &str) -> bool {
        self.declared.iter().any(|known| known == name)
    }

    /// The environment of a step.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let visible = |(name, _): &&(String, String)| !NOT_FOR_STEPS.contains(&name.as_str());
        self.variables.iter().filter(visible).cloned().collect()
    }

    /// Bytes of all names and values.
    pub(crate) fn size_bytes(&self) -> usize {
        self.variables
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }

    /// What history shows before a command: `|2 A=1 B= `, or nothing.
    pub(crate) fn history_prefix(&self) -> String {
        let shown = self
            .declared
            .iter()
            .filter(|name| !NOT_FOR_STEPS.contains(&name.as_str()));
        let shown: Vec<String> = shown
            .map(|name| format!("{name}={}", self.value(name).unwrap_or_default()))
            .collect();
        if shown.is_empty() {
            String::new()
        } else {
            format!("|{} {} ", shown.len(), shown.join(" "))
        }
    }

    /// Names that have a value, for suggestions.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.variables.iter().map(|(name, _)| name.as_str());
        names.filter(|name| !NOT_FOR_STEPS.contains(name))
    }
}

/// Proxy variables among the build arguments, each in upper and lower case.
pub(crate) fn proxies(build_args: &BTreeMap<String, String>, scope: &Scope) -> Vec<(String, String)> {
    let mut proxies = Vec::new();
    for upper in PROXIES {
        let given = build_args.iter().find(|(name, _)| name.eq_ignore_ascii_case(upper));
        if let Some((_, value)) = given {
            for name in [upper.to_owned(), upper.to_ascii_lowercase()] {
                // Once declared or set it is an ordinary variable, with all that follows for keys and history.
                if !scope.is_declared(&name) && scope.value(&name).is_none() {
                    proxies.push((name, value.clone()));
                }
            }
        }
    }
    proxies
}

/// What `FROM` lines see, and what a stage's bare `ARG NAME` takes over.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globals {
    /// Values.
    pub(crate) values: BTreeMap<String, String>,
    /// Names that were declared and got no value.
    pub(crate) declared: BTreeSet<String>,
    /// For all words that see them.
    pub(crate) budget: Budget,
}

impl Globals {
    /// Only what needs no declaration; a build argument of the same name replaces it.
    pub(crate) fn predefined(options: &LowerOptions, target_stage: &str) -> Self {
        let mut values = BTreeMap::new();
        for (prefix, platform) in [("BUILD", &options.build_platform), ("TARGET", &options.platform)] {
            for (suffix, value) in platform_values(platform) {
                values.insert(format!("{prefix}{suffix}"), value);
            }
        }
        values.insert("TARGETSTAGE".to_owned(), target_stage.to_owned());
        for (name, value) in &mut values {
            if let Some(given) = options.build_args.get(name) {
                value.clone_from(given);
            }
        }
        Self {
            values,
            declared: BTreeSet::new(),
            budget: Budget::default(),
        }
    }
}

fn platform_values(platform: &Platform) -> [(&'static str, String); 5] {
    let os = match platform.os_version.as_str() {
        "" => platform.os.clone(),
        version => format!("{}({version})", platform.os),
    };
    let mut whole = format!("{os}/{}", platform.architecture);
    if !platform.variant.is_empty() {
        whole = format!("{whole}/{}", platform.variant);
    }
    [
        ("PLATFORM", whole),
        ("OS", platform.os.clone()),
        ("OSVERSION", platform.os_version.clone()),
        ("ARCH", platform.architecture.clone()),
        ("VARIANT", platform.variant.clone()),
    ]
}

/// Build arguments that no `ARG` of these instructions names and that have no meaning of their own.
pub(crate) fn undeclared(build_args: &BTreeMap<String, String>, declared: &BTreeSet<&str>) -> Vec<String> {
    let unknown = build_args.keys().filter(|name| {
        let proxy = PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name));
        let platform = ["BUILD", "TARGET"].iter().any(|prefix| {
            let rest = name.strip_prefix(prefix);
            rest.is_some_and(|rest| matches!(rest, "PLATFORM" | "OS" | "OSVERSION" | "ARCH" | "VARIANT" | "STAGE"))
        });
        let ours = name.starts_with("BUILDKIT_") || name.as_str() == "SOURCE_DATE_EPOCH";
        !proxy && !platform && !ours && !declared.contains(name.as_str())
    });
    unknown.cloned().collect()
}

/// Every name that an `ARG` anywhere in these instructions declares, triggers counted in.
pub(crate) fn declared_names(instructions: &[Instruction]) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for instruction in instructions {
        let kind = match &instruction.kind {
            Kind::Onbuild { inner: Ok(inner), .. } => &inner.kind,
            other => other,
        };
        if let Kind::Arg(args) = kind {
            names.extend(args.iter().map(|arg: &Arg| arg.name.value.as_str()));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_stands_where_it_was_assigned_last() {
        let mut scope = Scope::default();
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3")] {
            scope.set(name, value);
        }
        assert_eq!(
            scope.environment(),
            [("B".into(), "2".into()), ("A".into(), "3".into())]
        );
    }

    #[test]
    fn history_lists_declared_names_in_order_with_their_present_values() {
        let mut scope = Scope::default();
        assert_eq!(scope.history_prefix(), "");
        scope.declare("A", Some("1"));
        scope.declare("D", None);
        scope.declare("A", Some("2"));
        assert_eq!(scope.history_prefix(), "|2 A=2 D= ");
    }

    #[test]
    fn a_variable_is_an_argument_until_something_else_assigns_it() {
        let mut scope = Scope::default();
        scope.set("E", "1");
        scope.declare("A", Some("1"));
        scope.declare("B", Some("1"));
        scope.declare("N", None);
        assert_eq!(scope.arguments(), ["A", "B"]);
        scope.set("A", "2");
        assert_eq!(scope.arguments(), ["B"]);
    }

    #[test]
    fn proxies_come_in_both_cases_unless_declared() {
        let args = BTreeMap::from([("http_proxy".to_owned(), "p".to_owned())]);
        let mut scope = Scope::default();
        assert_eq!(
            proxies(&args, &scope),
            [("HTTP_PROXY".into(), "p".into()), ("http_proxy".into(), "p".into())]
        );
        scope.declare("http_proxy", Some("p"));
        assert_eq!(proxies(&args, &scope), [("HTTP_PROXY".into(), "p".into())]);
    }
}
