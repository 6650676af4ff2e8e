use std::net::IpAddr;

use autoport::model::Protocol;

use super::*;

/// A row of TCP: address, port, target.
fn row(address: &str, port: u16, target: Option<&str>) -> Row {
    let address: IpAddr = address.parse().expect("an address");
    let port = NonZeroU16::new(port).expect("a port");
    let host = HostPort { protocol: Protocol::Tcp, address, port };
    Row { target: target.map(|target| target.parse().expect("a target")), ..Row::of(host) }
}

fn shown(rows: Vec<Row>, all: bool) -> Vec<String> {
    let cells = |row: &Row| {
        let [host, target, ..] = row.cells();
        format!("{} {}", host.text(), target.text())
    };
    arranged(rows, all).iter().map(cells).collect()
}

#[test]
fn runs_are_one_row_and_what_leads_nowhere_is_left_out() {
    let block = |from: u16| {
        (0..3).flat_map(move |offset| {
            let target = format!("10.1.0.5:{}", 9000 + offset);
            [row("0.0.0.0", from + offset, Some(&target)), row("::", from + offset, None)]
        })
    };
    let mut rows: Vec<Row> = block(20_000).collect();
    rows.push(row("0.0.0.0", 20_003, Some("10.1.0.5:80")));
    rows.push(row("192.0.2.1", 443, Some("10.1.0.5:443")));
    let folded = [
        "192.0.2.1:443/tcp 10.1.0.5:443",
        "0.0.0.0:20000-20002/tcp 10.1.0.5:9000-9002",
        "0.0.0.0:20003/tcp 10.1.0.5:80",
    ];
    assert_eq!(shown(rows.clone(), false), folded);
    assert_eq!(shown(rows, true).len(), 8);
}

#[test]
fn a_port_that_leads_nowhere_at_all_has_a_row() {
    let both = vec![row("::", 53, None), row("0.0.0.0", 53, None)];
    assert_eq!(shown(both, false), ["0.0.0.0:53/tcp -"]);
    assert_eq!(shown(vec![row("::", 53, None)], false), ["[::]:53/tcp -"]);
    let v6 = vec![row("::", 80, Some("[fd00::5]:80")), row("0.0.0.0", 80, None)];
    assert_eq!(shown(v6, false), ["[::]:80/tcp [fd00::5]:80"]);
}
