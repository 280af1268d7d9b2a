//! A proxy between the crawler and a mirror, which spoils what it is told to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What becomes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It ends in its middle.
    Cut,
    /// It goes on in its middle never.
    Stall,
    /// It is another one, without a body.
    Status(&'static str),
    /// A byte in its middle is another.
    Corrupt,
    /// It is that to a request for this.
    Swap(&'static str),
    /// The second half of the body is left out, and the length says so.
    Shrink,
    /// A range is said to be another.
    WrongRange,
    /// A range is not asked for.
    WholeForRange,
    /// It leads to itself.
    Circle,
}

/// What is spoilt: answers to requests whose path holds this, and how many.
struct Plan {
    path: &'static str,
    fault: Fault,
    times: usize,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    plan: Arc<Mutex<Option<Plan>>>,
}

impl Proxy {
    pub(crate) fn new(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let plan = Arc::new(Mutex::new(None));
        let upstream = upstream.trim_start_matches("http://").to_owned();
        let shared = Arc::clone(&plan);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (plan, upstream) = (Arc::clone(&shared), upstream.clone());
                // Who hangs up has had enough.
                thread::spawn(move || pass(&stream, &upstream, &plan));
            }
        });
        Self { url, plan }
    }

    pub(crate) fn spoil(&self, path: &'static str, fault: Fault, times: usize) {
        *self.plan.lock().unwrap() = Some(Plan { path, fault, times });
    }

    pub(crate) fn pass_all(&self) {
        *self.plan.lock().unwrap() = None;
    }
}

fn pass(mut client: &TcpStream, upstream: &str, plan: &Mutex<Option<Plan>>) -> Option<()> {
    let mut lines = BufReader::new(client).lines();
    let mut head: Vec<String> = Vec::new();
    loop {
        match lines.next()?.ok()? {
            line if line.is_empty() => break,
            line => head.push(line),
        }
    }
    let path = head[0].split(' ').nth(1)?.to_owned();
    let fault = match plan.lock().unwrap().as_mut() {
        Some(plan) if plan.times > 0 && path.contains(plan.path) => {
            plan.times -= 1;
            Some(plan.fault)
        }
        _ => None,
    };
    match fault {
        Some(Fault::Status(status)) => {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            return client.write_all(answer.as_bytes()).ok();
        }
        Some(Fault::Circle) => {
            let answer =
                format!("HTTP/1.1 302 Found\r\nLocation: {path}\r\nContent-Length: 0\r\n\r\n");
            return client.write_all(answer.as_bytes()).ok();
        }
        Some(Fault::Swap(other)) => head[0] = format!("GET {other} HTTP/1.1"),
        Some(Fault::WholeForRange) => head.retain(|line| !line.starts_with("range:")),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream).ok()?;
    server.write_all(format!("{}\r\n\r\n", head.join("\r\n")).as_bytes()).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let half = body + (answer.len() - body) / 2;
    match fault {
        Some(Fault::Cut) => answer.truncate(half),
        Some(Fault::Stall) => {
            client.write_all(&answer[..half]).ok()?;
            // Until the client hangs up.
            return client.read_to_end(&mut Vec::new()).ok().map(|_| ());
        }
        Some(Fault::Corrupt) if body < answer.len() => answer[half] ^= 1,
        Some(Fault::Shrink) => {
            let head = String::from_utf8(answer[..body].to_vec()).ok()?;
            let [old, new] = [answer.len() - body, half - body]
                .map(|length| format!("Content-Length: {length}\r\n"));
            answer = [head.replace(&old, &new).as_bytes(), &answer[body..half]].concat();
        }
        Some(Fault::WrongRange) => {
            let head = String::from_utf8(answer[..body].to_vec()).ok()?;
            let head = head.replace("Content-Range: bytes ", "Content-Range: bytes 1");
            answer = [head.as_bytes(), &answer[body..]].concat();
        }
        _ => {}
    }
    client.write_all(&answer).ok()
}
