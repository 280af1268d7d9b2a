//! TLS: the system's certificates decide, and names are resolved.

use crate::{
    machine::{Machine, RUNNING, id},
    servers::Server,
};
use axum::{Router, routing, serve::Listener};
use nfdrop_db::sample;
use std::{fs, net::SocketAddr, sync::Arc};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
    server::TlsStream,
};

/// Takes connections over TLS; those that fail are the client's affair.
struct Tls(TcpListener, TlsAcceptor);

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.0.accept().await.unwrap();
            if let Ok(stream) = self.1.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A server called `localhost`: its URL and its certificate.
async fn server() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let plan = routing::get(async || sample::resolved(id(RUNNING)).to_bytes());
    let router = Router::new().route(&format!("/buildid/{RUNNING}/plan"), plan);
    let tls = Tls(listener, TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move { axum::serve(tls, router).await });
    (url, made.cert.pem())
}

#[tokio::test]
async fn a_certificate_of_the_system_is_believed_and_no_other() {
    let (url, certificate) = server().await;
    let (_, of_another) = server().await;
    for (trusted, code) in [(certificate, 0), (of_another, 1)] {
        let mut machine = Machine::with_module();
        let file = machine.path("certificates.pem");
        fs::write(&file, trusted).unwrap();
        machine.set("SSL_CERT_FILE", file.to_str().unwrap());
        let ended = machine.run(&["plan", "--server", &url]).await;
        assert_eq!(ended.code, code, "{}", ended.stderr);
        assert_eq!(ended.stderr.contains("certificate"), code == 1, "{}", ended.stderr);
    }
}

#[tokio::test]
async fn without_certificates_there_is_http_and_a_word_about_https() {
    let (url, _) = server().await;
    let plain = Server::real(&[RUNNING]).await;
    let mut machine = Machine::with_module();
    let file = machine.path("certificates.pem");
    fs::write(&file, "").unwrap();
    machine.set("SSL_CERT_FILE", file.to_str().unwrap());
    let ended = machine.run(&["plan", "--server", &url]).await;
    assert_eq!(ended.code, 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("install ca-certificates"), "{}", ended.stderr);
    let ended = machine.run(&["plan", "--server", &plain.url]).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
}
