//! A terminal of a test, with a command at it as somebody would sit there.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::server::{PATIENCE, end_of};

/// A command at a terminal.
pub(crate) struct Sitting {
    keyboard: OwnedFd,
    screen: Arc<Mutex<Vec<u8>>>,
    /// How much of the screen was looked at.
    seen: usize,
    child: Child,
}

impl Sitting {
    /// Starts `command` at a terminal of that size, which is its controlling one.
    pub(crate) fn start(command: &Command, size: (u16, u16)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        tcsetwinsize(&keyboard, winsize(size)).unwrap();
        let terminal = ioctl_tiocgptpeer(&keyboard, flags).unwrap();
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let mut at_terminal = Command::new("setsid");
        at_terminal
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir(command.get_current_dir().unwrap())
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio());
        let child = at_terminal.spawn().unwrap();
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (from, to) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal that nobody has open any more ends with an error.
            while let Ok(count @ 1..) = rustix::io::read(&from, &mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Self {
            keyboard,
            screen,
            seen: 0,
            child,
        }
    }

    /// Presses keys.
    pub(crate) fn press(&self, keys: &str) {
        let mut left = keys.as_bytes();
        while !left.is_empty() {
            match rustix::io::write(&self.keyboard, left) {
                Ok(count) => left = &left[count..],
                Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
            }
        }
    }

    /// Waits until the screen shows `words` behind what was read before.
    #[track_caller]
    pub(crate) fn read(&mut self, words: &str) {
        let start = Instant::now();
        loop {
            let screen = self.screen.lock().unwrap();
            let text = &screen[self.seen..];
            if let Some(at) = text.windows(words.len()).position(|window| window == words.as_bytes()) {
                self.seen += at + words.len();
                return;
            }
            let shown = String::from_utf8_lossy(text).into_owned();
            drop(screen);
            assert!(start.elapsed() < PATIENCE, "`{words}` is not in:\n{shown}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Makes the terminal larger or smaller.
    pub(crate) fn resize(&self, size: (u16, u16)) {
        tcsetwinsize(&self.keyboard, winsize(size)).unwrap();
    }

    /// The process at the terminal.
    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for the end of the command.
    #[track_caller]
    pub(crate) fn code(mut self) -> Option<i32> {
        end_of(&mut self.child).code()
    }
}

fn winsize((rows, columns): (u16, u16)) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
