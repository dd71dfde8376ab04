//! Which platforms a build is for, and what that makes of its result.

use std::collections::HashMap;

use proto::platform::Platform;

use crate::request::RequestError;

/// Build argument that makes an index of a single image.
const MULTI_PLATFORM: &str = "BUILDKIT_MULTI_PLATFORM";

/// What a build makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One image.
    Image,
    /// An index, be it over a single image.
    Index,
}

/// The platforms of a request, each once, in its order, which is that of the index. `native` is what an empty text stands for.
///
/// # Errors
/// Texts that are no platform.
pub(crate) fn from_wire(texts: &[String], native: &Platform) -> Result<Vec<Platform>, RequestError> {
    let mut platforms = Vec::new();
    for text in texts {
        let platform = match text.as_str() {
            "" | "local" => native.clone(),
            text => text.parse().map_err(|error| RequestError(format!("{error}")))?,
        };
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// What a build for so many platforms makes: several make an index; for a single one the build argument decides.
///
/// # Errors
/// An argument that is no boolean, or that wants one image of several.
pub(crate) fn shape(platforms: usize, build_args: &HashMap<String, String>) -> Result<Shape, RequestError> {
    let Some(text) = build_args.get(MULTI_PLATFORM).filter(|text| !text.is_empty()) else {
        return Ok(if platforms > 1 { Shape::Index } else { Shape::Image });
    };
    match text.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Shape::Index),
        "0" | "f" | "F" | "false" | "FALSE" | "False" if platforms > 1 => Err(RequestError(format!(
            "{MULTI_PLATFORM}={text}: returning multiple target platforms is not allowed"
        ))),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Shape::Image),
        _ => Err(RequestError(format!(
            "invalid boolean value for {MULTI_PLATFORM}: {text}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_keep_their_order_and_count_once() {
        let texts = ["linux/arm64", "", "linux/x86_64", "linux/arm64/v8", "linux/arm"];
        let platforms = from_wire(&texts.map(str::to_owned), &Platform::new("linux", "amd64", "")).unwrap();
        let shown: Vec<String> = platforms.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["linux/arm64", "linux/amd64", "linux/arm/v7"]);
    }

    #[test]
    fn a_build_argument_makes_an_index_of_a_single_image() {
        let shape = |value: &str, platforms| {
            let argument = HashMap::from([(MULTI_PLATFORM.to_owned(), value.to_owned())]);
            shape(platforms, &argument).map_err(|error| error.to_string())
        };
        assert_eq!(shape("1", 0), Ok(Shape::Index));
        assert_eq!(shape("False", 1), Ok(Shape::Image));
        assert_eq!(shape("", 2), Ok(Shape::Index));
        assert!(shape("yes", 1).unwrap_err().contains("invalid boolean value"));
        let refused = shape("0", 2).unwrap_err();
        assert!(
            refused.contains("multiple target platforms is not allowed"),
            "{refused}"
        );
    }
}
