//! What a screen remembers of steps: when they started, and lines of output that are not complete.

use std::collections::BTreeMap;

/// A line is cut here, so that output without line ends does not fill the memory.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// A step that runs.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// As the server names it.
    pub(crate) name: String,
    /// By the server's clock.
    pub(crate) started_ms: u64,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Step {
    /// Takes output; calls `each` for every complete line, without its end.
    pub(crate) fn log<E>(
        &mut self,
        stream: u32,
        data: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let buffer = if stream == 2 {
            &mut self.stderr
        } else {
            &mut self.stdout
        };
        buffer.extend_from_slice(data);
        let mut start = 0;
        while let Some(length) = buffer[start..].iter().position(|b| *b == b'\n') {
            each(visible(&buffer[start..start + length]))?;
            start += length + 1;
        }
        buffer.drain(..start);
        while buffer.len() >= MAX_LINE_BYTES {
            each(visible(&buffer[..MAX_LINE_BYTES]))?;
            buffer.drain(..MAX_LINE_BYTES);
        }
        Ok(())
    }

    /// The last lines, if they have no end.
    pub(crate) fn rest<E>(&mut self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for buffer in [&mut self.stdout, &mut self.stderr] {
            let rest = std::mem::take(buffer);
            if !rest.is_empty() {
                each(visible(&rest))?;
            }
        }
        Ok(())
    }
}

/// What a terminal shows of a line in the end: the part after the last carriage return, as progress bars use it.
fn visible(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.iter().rposition(|b| *b == b'\r') {
        Some(at) => &line[at + 1..],
        None => line,
    }
}

/// The running steps of a build.
#[derive(Debug, Default)]
pub(crate) struct Steps(BTreeMap<u32, Step>);

impl Steps {
    /// A step came to life.
    pub(crate) fn start(&mut self, number: u32, name: &str, time_ms: u64) {
        let step = Step {
            name: name.to_owned(),
            started_ms: time_ms,
            ..Step::default()
        };
        self.0.insert(number, step);
    }

    /// A step that may print. One that nobody announced, as after a resumed stream, starts here.
    pub(crate) fn step(&mut self, number: u32) -> &mut Step {
        self.0.entry(number).or_default()
    }

    /// A step ended.
    pub(crate) fn finish(&mut self, number: u32) -> Step {
        self.0.remove(&number).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut step = Step::default();
        let mut lines = Vec::new();
        let mut each = |line: &[u8]| -> Result<(), std::convert::Infallible> {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        };
        for chunk in chunks {
            step.log(1, chunk, &mut each).unwrap();
        }
        step.rest(&mut each).unwrap();
        lines
    }

    #[test]
    fn lines_are_put_together_from_chunks() {
        assert_eq!(lines(&[b"a", b"b\nc\n\nd", b"e"]), ["ab", "c", "", "de"]);
        assert_eq!(lines(&[b"10%\r20%\r30%\r\n"]), ["30%"]);
    }

    #[test]
    fn output_without_line_ends_is_cut() {
        let long = vec![b'x'; MAX_LINE_BYTES + 1];
        let lengths: Vec<usize> = lines(&[&long]).iter().map(String::len).collect();
        assert_eq!(lengths, [MAX_LINE_BYTES, 1]);
    }
}
