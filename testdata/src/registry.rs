//! A registry on a port of its own, that ends with its test.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::certificate::Certificate;
use crate::token_server::{ISSUER, SERVICE, TokenServer};

/// The registry that Debian packages.
pub const PROGRAM: &str = "/usr/bin/docker-registry";

/// The user whom a registry with a login knows.
pub const USER: &str = "ci";

/// The password of [`USER`].
pub const PASSWORD: &str = "correct horse";

/// [`USER`] and bcrypt of [`PASSWORD`], at the lowest cost: nothing is protected here.
const HTPASSWD: &str = "ci:$2y$04$jIxRBLq719ga4h91.Nrt2OfEhu.FkFJdFB4A6E7xAvVTz4aoHCzcy\n";

type Lines = Arc<Mutex<Vec<String>>>;

/// A running registry; killed by its process ID on drop, with all it holds.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    address: String,
    /// Keeps the pipe open: the registry writes a line per request.
    log: Option<std::thread::JoinHandle<()>>,
    lines: Lines,
    directory: tempfile::TempDir,
}

impl Registry {
    /// A registry for everybody.
    ///
    /// # Panics
    /// If the program does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::launch("", &[])
    }

    /// A registry for [`USER`] only.
    ///
    /// # Panics
    /// If the program does not start.
    #[must_use]
    pub fn start_with_login() -> Self {
        let auth = "auth: {htpasswd: {realm: tests, path: DIRECTORY/htpasswd}}\n";
        Self::launch(auth, &[("htpasswd", HTPASSWD)])
    }

    /// A registry that speaks HTTPS only, with `certificate`.
    ///
    /// # Panics
    /// If the program does not start.
    #[must_use]
    pub fn start_with_tls(certificate: &Certificate) -> Self {
        let files = [
            ("tls.crt", certificate.certificate.as_str()),
            ("tls.key", &certificate.key),
        ];
        Self::launch(
            "  tls: {certificate: DIRECTORY/tls.crt, key: DIRECTORY/tls.key}\n",
            &files,
        )
    }

    /// A registry that wants tokens of `server`.
    ///
    /// # Panics
    /// If the program does not start.
    #[must_use]
    pub fn start_with_tokens(server: &TokenServer) -> Self {
        let auth = format!(
            "auth: {{token: {{realm: '{}', service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: DIRECTORY/signer.crt}}}}\n",
            server.realm()
        );
        Self::launch(&auth, &[("signer.crt", server.certificate())])
    }

    /// A registry with more `settings` after those of `http`, and with `files`. `DIRECTORY` is where those are.
    fn launch(settings: &str, files: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix("rbuild-registry-").tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: DIRECTORY/data}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: '127.0.0.1:0'\n{settings}"
        );
        let config = config.replace("DIRECTORY", directory.path().to_str().unwrap());
        let path = directory.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new(PROGRAM)
            .arg("serve")
            .arg(path)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = listening(&mut log);
        let lines = Lines::default();
        let log = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || keep(log, &lines)
        });
        Self {
            child,
            address,
            log: Some(log),
            lines,
            directory,
        }
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The name of something in this registry.
    #[must_use]
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// Digests of the blobs that it has sent by now, layers and configs, each as often as it was sent.
    ///
    /// # Panics
    /// Never, as long as no test panics while it looks.
    #[must_use]
    pub fn blobs_sent(&self) -> Vec<String> {
        let sent = |line: &String| {
            let (_, blob) = line.split_once("/blobs/sha256:")?;
            let whole = line.contains("http.request.method=GET") && line.contains("http.response.status=200");
            whole.then(|| format!("sha256:{}", &blob[..64]))
        };
        self.lines.lock().unwrap().iter().filter_map(sent).collect()
    }

    /// Where its files are.
    #[must_use]
    pub fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }
}

/// The address it chose, from its log.
fn listening(log: &mut BufReader<ChildStderr>) -> String {
    let mut said = String::new();
    loop {
        let start = said.len();
        let read = log.read_line(&mut said).unwrap();
        assert!(read > 0, "the registry ended:\n{said}");
        if let Some((_, address)) = said[start..].split_once("listening on ") {
            let end = address.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
            return address[..end.unwrap_or(address.len())].to_owned();
        }
    }
}

fn keep(log: BufReader<ChildStderr>, lines: &Lines) {
    // Read errors and end of file mean the same here: it is gone.
    for line in log.lines().map_while(Result::ok) {
        lines.lock().unwrap().push(line);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        if let Some(log) = self.log.take() {
            log.join().unwrap();
        }
    }
}
