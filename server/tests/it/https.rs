//! HTTPS.

use crate::support::{Data, RESOLVED, Server};
use reqwest::Certificate;
use rustix::process::{Pid, Signal, kill_process};
use std::{fs, io::BufRead as _, path::Path, process::Command};

fn pair(folder: &Path, name: &str) -> (String, String, Certificate) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let path = |end: &str| folder.join(format!("{name}.{end}")).to_str().unwrap().to_owned();
    let (certificate, key) = (path("pem"), path("key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate, key, Certificate::from_pem(made.cert.pem().as_bytes()).unwrap())
}

async fn status(server: &Server, trusted: &Certificate) -> Option<u16> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().tls_certs_only([trusted.clone()]).build().unwrap();
    let url = format!("https://{}/buildid/{RESOLVED}/plan", server.address);
    client.get(url).send().await.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test]
async fn a_certificate_is_used_and_on_sighup_the_next_one() {
    let data = Data::new();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key, first) = pair(folder.path(), "first");
    let mut server = Server::with(&data, &["--tls-cert", &certificate, "--tls-key", &key]);
    assert_eq!(status(&server, &first).await, Some(200));
    // Plain HTTP gets no answer, and does no harm.
    assert!(!server.raw("GET / HTTP/1.1\r\nhost: a\r\n\r\n").contains("200 OK"));
    let (next, next_key, second) = pair(folder.path(), "second");
    fs::rename(next, &certificate).unwrap();
    fs::rename(next_key, &key).unwrap();
    assert_eq!(status(&server, &second).await, None);
    let reload = |server: &mut Server| {
        kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
        let mut line = String::new();
        server.stderr.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(reload(&mut server), "certificate and key are read again\n");
    assert_eq!(status(&server, &second).await, Some(200));
    fs::write(&key, "none").unwrap();
    let line = reload(&mut server);
    assert!(line.starts_with("error: ") && line.ends_with("the old ones are used on\n"), "{line}");
    assert_eq!(status(&server, &second).await, Some(200));
}

#[test]
fn what_is_no_certificate_is_refused() {
    let data = Data::new();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key, _) = pair(folder.path(), "a");
    let (_, other, _) = pair(folder.path(), "b");
    for (certificate, key) in [(&key, &key), (&certificate, &other)] {
        let output = Command::new(env!("CARGO_BIN_EXE_nfdrop-server"))
            .arg("--db")
            .arg(data.path())
            .args(["--listen", "127.0.0.1:0", "--tls-cert", certificate, "--tls-key", key])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("error: ") && !text.contains("listening"), "{text}");
    }
}
