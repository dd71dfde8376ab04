//! A real SSH server on loopback, which knows one user with one key.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use testdata::machine::Need;

use super::server::wait_until;

/// What tests with this server need.
pub(crate) const SSHD: Need = Need::Program("/usr/sbin/sshd");

/// It ends with the test.
#[derive(Debug)]
pub(crate) struct Sshd {
    process: Child,
    directory: PathBuf,
    port: u16,
}

impl Sshd {
    /// A server for root with `public_key`. Its own key, its settings and its log lie in `directory`.
    pub(crate) fn start(directory: &Path, public_key: &str) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        // It insists on a place of its own that nobody else can write.
        std::fs::create_dir_all("/run/sshd").unwrap();
        make_host_key(directory);
        std::fs::write(directory.join("authorized"), public_key).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let sshd = Self {
            process: run(directory, port),
            directory: directory.to_owned(),
            port,
        };
        sshd.wait();
        sshd
    }

    /// The address of a repository at an absolute path.
    pub(crate) fn url(&self, path: &Path) -> String {
        format!("ssh://root@127.0.0.1:{}{}", self.port, path.display())
    }

    /// The same server with another key of its own, as somebody in between would have.
    pub(crate) fn change_host_key(&mut self) {
        self.end();
        std::fs::remove_file(self.directory.join("host")).unwrap();
        make_host_key(&self.directory);
        self.process = run(&self.directory, self.port);
        self.wait();
    }

    /// Its key, as a file of known hosts has it.
    pub(crate) fn known_host(&self) -> String {
        let key = std::fs::read_to_string(self.directory.join("host.pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }

    fn wait(&self) {
        wait_until("the SSH server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.end();
    }
}

fn make_host_key(directory: &Path) {
    let made = Command::new("/usr/bin/ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(directory.join("host"))
        .status();
    assert!(made.unwrap().success());
    let mode = PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(directory.join("host"), mode).unwrap();
}

fn run(directory: &Path, port: u16) -> Child {
    let at = |name: &str| directory.join(name).display().to_string();
    let options = [
        format!("Port={port}"),
        "ListenAddress=127.0.0.1".to_owned(),
        format!("HostKey={}", at("host")),
        format!("AuthorizedKeysFile={}", at("authorized")),
        format!("PidFile={}", at("pid")),
        "PermitRootLogin=prohibit-password".to_owned(),
        "StrictModes=no".to_owned(),
        "UsePAM=no".to_owned(),
    ];
    let mut sshd = Command::new("/usr/sbin/sshd");
    sshd.args(["-D", "-f", "/dev/null", "-E"]).arg(directory.join("log"));
    for option in options {
        sshd.arg("-o").arg(option);
    }
    sshd.stdin(Stdio::null()).spawn().unwrap()
}
