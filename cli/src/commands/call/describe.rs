//! `--call=subrequests.describe`: which questions there are.

use serde::Serialize;

use super::Call;
use super::table::table;
use crate::exit::Problem;

#[derive(Debug, Serialize)]
struct Request {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    opts: &'static [Named],
    metadata: &'static [Named],
}

#[derive(Debug, Serialize)]
struct Named {
    name: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'static str,
}

const fn named(name: &'static str, description: &'static str) -> Named {
    Named { name, description }
}

const ANSWERS: &[Named] = &[named("result.json", ""), named("result.txt", "")];
const CHECK_ANSWERS: &[Named] = &[
    named("result.json", ""),
    named("result.txt", ""),
    named("result.statuscode", ""),
];

const fn request(name: &'static str, description: &'static str) -> Request {
    Request {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts: &[],
        metadata: ANSWERS,
    }
}

const REQUESTS: [Request; 4] = [
    Request {
        opts: &[named("target", "the stage to describe")],
        ..request("frontend.outline", "list what a build of the target can be given")
    },
    request("frontend.targets", "list the stages that can be built"),
    Request {
        metadata: CHECK_ANSWERS,
        ..request("frontend.lint", "check the Dockerfile")
    },
    request("frontend.subrequests.describe", "list these questions"),
];

pub(super) fn answer(call: Call) -> Result<(), Problem> {
    call.print(&REQUESTS, || {
        let short = |request: &Request| request.name.trim_start_matches("frontend.");
        let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"]];
        rows.extend(
            REQUESTS
                .iter()
                .map(|request| [short(request), request.version, request.description]),
        );
        table(&rows, 1)
    })
}
