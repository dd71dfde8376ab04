//! Files from web servers that misbehave. Named after the rows of `docs/security.md`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use cache::addresses::Reach;
use cache::download::{Answer, DownloadError, Downloader, Request};
use cache::registry::Patience;

/// A server that gives each client the next of these answers; returns its port.
fn server(answers: Vec<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            // A client that hangs up gets nothing.
            drop(stream.read(&mut request));
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    port
}

async fn fetch(url: &str, reach: Reach, limit_bytes: u64) -> Result<Answer, DownloadError> {
    let patience = Patience {
        tries: 2,
        backoff: Duration::from_millis(1),
        ..Patience::default()
    };
    let request = Request {
        url: url.to_owned(),
        limit_bytes,
        reach,
        ..Request::default()
    };
    Downloader::new(patience)
        .unwrap()
        .fetch(&request, &mut Vec::new())
        .await
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
}

#[tokio::test]
async fn r03_loopback_is_for_who_could_ask_it_without_us() {
    let port = server(vec![answer("200 OK", "", "x")]);
    for name in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let error = fetch(&format!("http://{name}:{port}/"), Reach::Others, 10)
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("may not ask") || text.contains("no address that builds may ask"),
            "{text}"
        );
    }
    // None of these was asked: the one answer is still there.
    fetch(&format!("http://127.0.0.1:{port}/"), Reach::ThisMachine, 10)
        .await
        .unwrap();
}

#[tokio::test]
async fn r03_redirects_lead_to_no_metadata_service() {
    for target in [
        "http://169.254.169.254/latest",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "gopher://x/",
    ] {
        let port = server(vec![answer("302 Found", &format!("Location: {target}\r\n"), "")]);
        let error = fetch(&format!("http://127.0.0.1:{port}/"), Reach::ThisMachine, 10)
            .await
            .unwrap_err();
        let refused = matches!(error, DownloadError::Forbidden { .. } | DownloadError::Redirect { .. });
        assert!(refused, "{target}: {error}");
    }
}

#[tokio::test]
async fn r04_a_wait_of_days_is_an_error_that_says_so() {
    let port = server(vec![answer("429 Slow down", "Retry-After: 86400\r\n", "")]);
    let error = fetch(&format!("http://127.0.0.1:{port}/"), Reach::ThisMachine, 10)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("`http://127.0.0.1:{port}/` asks to wait 86400 s, and the limit is 60 s")
    );
}

#[tokio::test]
async fn r04_headers_and_bodies_without_end_are_refused() {
    let lines: String = (0..80)
        .map(|number| format!("X-{number}: {}\r\n", "x".repeat(1000)))
        .collect();
    let port = server(vec![answer("200 OK", &lines, "x"); 2]);
    let error = fetch(&format!("http://127.0.0.1:{port}/"), Reach::ThisMachine, 10)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("limit of 65536 bytes"), "{error}");
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(1 << 16));
    for body in [endless, answer("200 OK", "", &"x".repeat(11))] {
        let port = server(vec![body]);
        let error = fetch(&format!("http://127.0.0.1:{port}/"), Reach::ThisMachine, 10)
            .await
            .unwrap_err();
        assert!(matches!(error, DownloadError::TooLarge { limit: 10, .. }), "{error}");
    }
}
