//! A small DNS server over the API server, and a client of it. The server answers for headless Services by the rule of
//! `CoreDNS` (its plugin `kubernetes`, docs/testing.md): a record for each endpoint that is ready and each of its ports,
//! whose target is the endpoint's `hostname`. `CoreDNS` itself cannot be had from Debian.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;

use crate::api;

const A: u16 = 1;
const SRV: u16 = 33;
const ZONE: [&str; 3] = ["svc", "cluster", "local"];

/// Where something is found: a number, and the name of a host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The server; it ends with this value.
pub(crate) struct Server {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at this address of the thread's network namespace.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(address).expect("the port is free");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("it can be set");
        let ends = Arc::<AtomicBool>::default();
        let ended = ends.clone();
        let serve = move || {
            let mut query = [0; 512];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut query) else { continue };
                let reply = reply(&query[..length]);
                socket.send_to(&reply, client).expect("it can be sent");
            }
        };
        Self { ends, thread: Some(thread::spawn(serve)) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The endpoints that are ready, each with its address and the ports of its slice.
fn endpoints(service: &str, namespace: &str) -> Vec<(String, Ipv4Addr, Value)> {
    let spec =
        api::get(&format!("/api/v1/namespaces/{namespace}/services/{service}"))["spec"].take();
    assert_eq!(spec["clusterIP"], "None", "others have other records");
    let label = format!("labelSelector=kubernetes.io/service-name%3D{service}");
    let group = "/apis/discovery.k8s.io/v1/namespaces";
    let found = api::get(&format!("{group}/{namespace}/endpointslices?{label}"));
    let mut endpoints = Vec::new();
    for slice in found["items"].as_array().into_iter().flatten() {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let address = endpoint["addresses"][0].as_str().expect("an address");
            // Of AAAA nothing is asked.
            let Ok(address) = address.parse::<Ipv4Addr>() else { continue };
            let dashed = address.to_string().replace('.', "-");
            let host = endpoint["hostname"].as_str().map_or(dashed, str::to_owned);
            if endpoint["conditions"]["ready"] != false {
                endpoints.push((host, address, slice["ports"].clone()));
            }
        }
    }
    endpoints
}

/// The data of the records that answer a question.
fn records(labels: &[&str], kind: u16) -> Vec<Vec<u8>> {
    let Some(rest) = labels.strip_suffix(&ZONE) else { return Vec::new() };
    match (rest, kind) {
        ([port, protocol, service, namespace], SRV) => {
            let [port, protocol] = [port, protocol].map(|label| label.trim_start_matches('_'));
            let mut found = Vec::new();
            for (host, _, ports) in endpoints(service, namespace) {
                let ports = ports.as_array().cloned().unwrap_or_default();
                let named = ports.into_iter().filter(|it| {
                    let of = it["protocol"].as_str().unwrap_or_default().to_lowercase();
                    it["name"] == *port && of == protocol
                });
                let target = [&[&*host, service, namespace][..], &ZONE].concat();
                found.extend(named.map(|it| srv(&it["port"], &target)));
            }
            found.sort();
            found.dedup();
            found
        }
        ([host, service, namespace], A) => {
            let all = endpoints(service, namespace).into_iter().filter(|(name, ..)| name == host);
            let mut found: Vec<_> = all.map(|(_, address, _)| address.octets().to_vec()).collect();
            found.dedup();
            found
        }
        _ => Vec::new(),
    }
}

fn srv(port: &Value, target: &[&str]) -> Vec<u8> {
    let port = port.as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    let mut data = vec![0, 0, 0, 100];
    data.extend(port.to_be_bytes());
    data.extend(name(target));
    data
}

fn name(labels: &[&str]) -> Vec<u8> {
    let label = |label: &&str| [&[label.len() as u8], label.as_bytes()].concat();
    let mut name: Vec<u8> = labels.iter().flat_map(label).collect();
    name.push(0);
    name
}

/// The answer to a message with one question (RFC 1035).
fn reply(query: &[u8]) -> Vec<u8> {
    let (labels, end) = labels(query, 12);
    let kind = number(query, end);
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let records = records(&labels, kind);
    let mut reply = query[..2].to_vec();
    reply.extend([0x85, 0x80, 0, 1]);
    reply.extend((records.len() as u16).to_be_bytes());
    reply.extend([0; 4]);
    reply.extend(&query[12..end + 4]);
    for data in records {
        // The name is that of the question.
        reply.extend([0xc0, 12]);
        reply.extend(kind.to_be_bytes());
        reply.extend([0, 1, 0, 0, 0, 5]);
        reply.extend((data.len() as u16).to_be_bytes());
        reply.extend(data);
    }
    reply
}

/// The labels of the name at this place, and where it ends.
fn labels(message: &[u8], mut at: usize) -> (Vec<String>, usize) {
    let mut labels = Vec::new();
    while message[at] != 0 {
        if message[at] >= 0xc0 {
            return (labels, at + 2);
        }
        let label = &message[at + 1..=at + usize::from(message[at])];
        labels.push(String::from_utf8(label.to_vec()).expect("ASCII"));
        at += label.len() + 1;
    }
    (labels, at + 1)
}

fn number(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(*message[at..].first_chunk().expect("two bytes"))
}

/// Asks a server; gives the data of the answers.
fn ask(server: SocketAddr, question: &str, kind: u16) -> Vec<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.connect(server).expect("there is a route");
    socket.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(name(&question.split('.').collect::<Vec<_>>()));
    query.extend([kind.to_be_bytes(), [0, 1]].concat());
    socket.send(&query).expect("it can be sent");
    let mut message = [0; 16384];
    let length = socket.recv(&mut message).expect("the server answers");
    let message = &message[..length];
    let mut at = labels(message, 12).1 + 4;
    let mut found = Vec::new();
    for _ in 0..number(message, 6) {
        at = labels(message, at).1;
        let length = usize::from(number(message, at + 8));
        found.push(message[at + 10..][..length].to_vec());
        at += 10 + length;
    }
    found
}

/// The targets of a question for SRV.
pub(crate) fn targets(server: SocketAddr, question: &str) -> Vec<Target> {
    let target =
        |data: Vec<u8>| Target { host: labels(&data, 6).0.join("."), port: number(&data, 4) };
    let mut all: Vec<_> = ask(server, question, SRV).into_iter().map(target).collect();
    all.sort();
    all
}

/// The addresses of a host.
pub(crate) fn addresses(server: SocketAddr, host: &str) -> Vec<Ipv4Addr> {
    let address = |data: Vec<u8>| Ipv4Addr::from(*data.first_chunk::<4>().expect("four bytes"));
    ask(server, host, A).into_iter().map(address).collect()
}
