//! A web server on a port of its own: pages that a test sets, and git repositories behind git's own CGI program.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What is served under one path.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The bytes.
    pub body: Vec<u8>,
    /// `ETag`; a request that knows it gets 304.
    pub etag: Option<&'static str>,
    /// `Last-Modified`; a request that knows it gets 304, if there is no `ETag`.
    pub modified: Option<&'static str>,
    /// Where the path leads instead.
    pub location: Option<String>,
    /// The `Authorization` that a request must have.
    pub login: Option<&'static str>,
    /// How many answers break in the middle.
    pub cuts: u32,
    /// No answer comes.
    pub hangs: bool,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Seen {
    /// With the query.
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    /// Of the answer.
    pub status: u16,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<String, Page>,
    seen: Vec<Seen>,
    /// Requests that never got an answer.
    hanging: usize,
    /// The directory below `/git/`, and the login that it needs.
    repositories: Option<(PathBuf, Option<&'static str>)>,
    /// The directory below `/files/`.
    files: Option<PathBuf>,
}

/// A running server; ends on drop.
#[derive(Debug)]
pub struct Web {
    address: String,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Web {
    /// A server without pages.
    ///
    /// # Panics
    /// Without a free port.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (state, stop) = (Arc::<Mutex<State>>::default(), Arc::<AtomicBool>::default());
        let (shared, ended) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || {
                    // A client that goes away is no concern of this server.
                    drop(serve(stream, &shared));
                });
            }
        });
        Self {
            address,
            state,
            stop,
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:port`
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The URL of a path that starts with `/`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Serves `page` under `path`.
    ///
    /// # Panics
    /// If a thread of the server panicked.
    pub fn put(&self, path: &str, page: Page) {
        self.state.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    /// Serves the repositories in `directory` below `/git/`, to whom has the login.
    ///
    /// # Panics
    /// If a thread of the server panicked.
    pub fn serve_git(&self, directory: &Path, login: Option<&'static str>) {
        self.state.lock().unwrap().repositories = Some((directory.to_owned(), login));
    }

    /// Serves the files in `directory` below `/files/`, as a server does that knows nothing of git.
    ///
    /// # Panics
    /// If a thread of the server panicked.
    pub fn serve_files(&self, directory: &Path) {
        self.state.lock().unwrap().files = Some(directory.to_owned());
    }

    /// All requests since the last call.
    ///
    /// # Panics
    /// If a thread of the server panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().unwrap().seen)
    }

    /// How many requests came for pages that hang.
    ///
    /// # Panics
    /// If a thread of the server panicked.
    #[must_use]
    pub fn hanging(&self) -> usize {
        self.state.lock().unwrap().hanging
    }

    /// `path status` of all requests since the last call.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let seen = self.seen().into_iter();
        seen.map(|seen| format!("{} {}", seen.path, seen.status)).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for clients.
        drop(TcpStream::connect(&self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let Some(request) = read(&mut reader)? else {
        return Ok(());
    };
    let (hangs, cut) = {
        let mut state = state.lock().unwrap();
        let page = state.pages.get_mut(request.path.split('?').next().unwrap_or_default());
        page.map_or((false, false), |page| {
            let cut = page.cuts > 0;
            page.cuts = page.cuts.saturating_sub(1);
            (page.hangs, cut)
        })
    };
    if hangs {
        state.lock().unwrap().hanging += 1;
        // Ends when the client goes.
        drop(reader.read(&mut [0]));
        return Ok(());
    }
    let answer = answer(&request, state)?;
    state.lock().unwrap().seen.push(Seen {
        path: request.path.clone(),
        headers: request.headers,
        status: answer.status,
    });
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if answer.status != 304 {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    let mut stream = reader.into_inner();
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method != "HEAD" && answer.status != 304 {
        let end = if cut { answer.body.len() / 2 } else { answer.body.len() };
        stream.write_all(&answer.body[..end])?;
    }
    stream.flush()
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let body = match headers.get("content-length") {
        Some(length) => {
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body)?;
            body
        }
        None if headers.contains_key("transfer-encoding") => chunked(reader)?,
        None => Vec::new(),
    };
    Ok(Some(Request {
        method,
        path,
        headers,
        body,
    }))
}

fn chunked(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).unwrap();
        reader.by_ref().take(size).read_to_end(&mut body)?;
        reader.read_line(&mut String::new())?;
        if size == 0 {
            return Ok(body);
        }
    }
}

fn answer(request: &Request, state: &Mutex<State>) -> std::io::Result<Answer> {
    let (page, repositories, files) = {
        let state = state.lock().unwrap();
        let page = state.pages.get(&request.path).cloned();
        (page, state.repositories.clone(), state.files.clone())
    };
    let sent = request.headers.get("authorization").map(String::as_str);
    if let (Some(rest), Some((directory, login))) = (request.path.strip_prefix("/git/"), repositories) {
        if login.is_some() && login != sent {
            let mut refused = Answer::empty(401);
            refused
                .headers
                .push(("WWW-Authenticate".into(), "Basic realm=x".into()));
            return Ok(refused);
        }
        return git(rest, request, &directory);
    }
    if let (Some(rest), Some(directory)) = (request.path.strip_prefix("/files/"), files) {
        let rest = rest.split('?').next().unwrap_or(rest);
        return Ok(match std::fs::read(directory.join(rest)) {
            Ok(body) => Answer {
                body,
                ..Answer::empty(200)
            },
            Err(_) => Answer::empty(404),
        });
    }
    Ok(match page {
        None => Answer::empty(404),
        Some(page) if page.login.is_some() && page.login != sent => Answer::empty(401),
        Some(page) => of_page(page, request),
    })
}

fn of_page(page: Page, request: &Request) -> Answer {
    if let Some(location) = page.location {
        let mut moved = Answer::empty(302);
        moved.headers.push(("Location".into(), location));
        return moved;
    }
    let knows =
        |header: &str, value: Option<&str>| value.is_some() && request.headers.get(header).map(String::as_str) == value;
    let unchanged = match page.etag {
        Some(_) => knows("if-none-match", page.etag),
        None => knows("if-modified-since", page.modified),
    };
    let mut answer = Answer::empty(if unchanged { 304 } else { 200 });
    for (name, value) in [("ETag", page.etag), ("Last-Modified", page.modified)] {
        answer
            .headers
            .extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    answer.body = page.body;
    answer
}

/// Runs git's own program for web servers.
fn git(path: &str, request: &Request, directory: &Path) -> std::io::Result<Answer> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let header = |name: &str| request.headers.get(name).cloned().unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", directory)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", format!("/{path}"))
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    let feed = std::thread::spawn(move || stdin.write_all(&body));
    let output = child.wait_with_output()?;
    feed.join().unwrap()?;
    let end = output
        .stdout
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0);
    let mut answer = Answer::empty(200);
    for line in String::from_utf8_lossy(&output.stdout[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => answer.status = status[..3].parse().unwrap(),
            Some((name, value)) => answer.headers.push((name.to_owned(), value.to_owned())),
            None => {}
        }
    }
    answer.body = output.stdout[(end + 4).min(output.stdout.len())..].to_vec();
    Ok(answer)
}
