//! The checks that have a name: one row each.

/// A check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// What `# check=skip=…` calls it, and the code of its diagnostics.
    pub name: &'static str,
    /// Last part of the address of its page; empty if there is no page.
    page: &'static str,
    /// What it is about, in one line.
    pub description: &'static str,
    /// Silent until a file asks for it with `# check=experimental=…`; `skip` means nothing to it.
    pub experimental: bool,
}

/// Every check, by name.
pub const RULES: [Rule; 22] = [
    rule(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "keywords of one file are written all in upper case or all in lower case",
    ),
    rule(
        "CopyIgnoredFile",
        "copy-ignored-file",
        "what is copied from the build context is not excluded by the ignore file",
    ),
    rule(
        "DuplicateStageName",
        "duplicate-stage-name",
        "no two stages have one name",
    ),
    rule(
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "EXPOSE names ports of the container, without address and port of the host",
    ),
    rule(
        "ExposeProtoCasing",
        "expose-proto-casing",
        "protocols in EXPOSE are written in lower case",
    ),
    rule(
        "FromAsCasing",
        "from-as-casing",
        "FROM and AS of one line are written in the same case",
    ),
    rule(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM does not tie a stage to one platform",
    ),
    rule(
        "InvalidBaseImagePlatform",
        "",
        "a base image is for the platform that is built for",
    ),
    rule(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "the defaults of global arguments make a usable name of a base image",
    ),
    Rule {
        experimental: true,
        ..rule(
            "InvalidDefinitionDescription",
            "invalid-definition-description",
            "a comment above a stage or an argument begins with its name, so that it can be shown as its description",
        )
    },
    rule(
        "JSONArgsRecommended",
        "json-args-recommended",
        "CMD and ENTRYPOINT run their program without a shell that keeps signals from it",
    ),
    rule(
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "names and values of ENV and LABEL are joined by `=`",
    ),
    rule(
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "authors are named by a label instead of MAINTAINER",
    ),
    rule(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "an instruction of which only the last counts stands once in a stage",
    ),
    rule(
        "NoEmptyContinuation",
        "no-empty-continuation",
        "no empty line stands inside an instruction",
    ),
    rule(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "FROM does not ask for the platform that it gets anyway",
    ),
    rule(
        "ReservedStageName",
        "reserved-stage-name",
        "no stage has a name that means something else",
    ),
    rule(
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "no secret is handed over as argument or environment, which stay in the image",
    ),
    rule(
        "StageNameCasing",
        "stage-name-casing",
        "names of stages are written in lower case",
    ),
    rule(
        "UndefinedArgInFrom",
        "undefined-arg-in-from",
        "variables of FROM are declared before the first stage",
    ),
    rule(
        "UndefinedVar",
        "undefined-var",
        "variables are set or declared before they are used",
    ),
    rule(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "the first WORKDIR does not depend on the one of the base image",
    ),
];

const fn rule(name: &'static str, page: &'static str, description: &'static str) -> Rule {
    Rule {
        name,
        page,
        description,
        experimental: false,
    }
}

impl Rule {
    /// The check of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        RULES.iter().find(|rule| rule.name == name)
    }

    /// The page that explains it, if there is one.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let page = Some(self.page).filter(|page| !page.is_empty());
        page.map(|page| format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_after_the_words_of_the_rule() {
        for rule in RULES.iter().filter(|rule| !rule.page.is_empty()) {
            assert_eq!(
                rule.page.replace('-', ""),
                rule.name.to_ascii_lowercase(),
                "{}",
                rule.name
            );
        }
        let url = Rule::find("JSONArgsRecommended").unwrap().url().unwrap();
        assert!(url.ends_with("/rule/json-args-recommended/"), "{url}");
        assert_eq!(Rule::find("InvalidBaseImagePlatform").unwrap().url(), None);
    }

    #[test]
    fn the_table_is_sorted_and_one_rule_waits_to_be_asked_for() {
        assert!(RULES.is_sorted_by(|a, b| a.name < b.name));
        let experimental = RULES.iter().filter(|rule| rule.experimental);
        assert_eq!(
            experimental.map(|rule| rule.name).collect::<Vec<_>>(),
            ["InvalidDefinitionDescription"]
        );
    }
}
