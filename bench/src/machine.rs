//! What all of it was measured on.

use std::fs;
use std::process::Command;
use std::time::Instant;

use crate::Bench;
use crate::node::tool;
use crate::plugins::Plugin;
use crate::raw::Row;

/// Writes down the machine and the versions. No names of hosts, no paths.
pub(crate) fn describe(bench: &Bench) {
    bench.raw.begin("machine");
    let row = Row::new("machine", "").fact("cpu", cpu()).fact("cpus", cpus());
    let row = row.fact("kernel", read("/proc/sys/kernel/osrelease")).fact("memory_mib", memory());
    let row = row.fact("nft", version("nft")).fact("iptables", version("iptables"));
    let size = fs::metadata(&bench.executables.autoport).map_or(0, |found| found.len());
    let mut row = row.fact("autoport_bytes", size);
    for plugin in [Plugin::PortmapNftables, Plugin::PortmapOld] {
        let path = plugin.path(&bench.executables);
        let size = fs::metadata(path).map_or(0, |found| found.len());
        row = row.fact(&format!("{}_bytes", plugin.id()), size);
    }
    bench.raw.put(&row);
}

/// Runs a part of the measurements, and writes down when, under what load, how long, and of which
/// build: each can be repeated alone.
pub(crate) fn during(bench: &Bench, part: &str, work: impl FnOnce()) {
    let date = tool(Command::new("date").args(["-u", "+%F %H:%M UTC"]), "");
    let sum = tool(Command::new("sha256sum").arg(&bench.executables.autoport), "");
    let row = Row::new("parts", part)
        .fact("began", date.trim())
        .fact("load", read("/proc/loadavg").split(' ').next().unwrap_or_default())
        .fact("sha256", sum.split(' ').next().unwrap_or_default());
    let start = Instant::now();
    work();
    bench.raw.replace(&row.fact("seconds", start.elapsed().as_secs()));
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn of_cpuinfo(name: &str) -> Vec<String> {
    let text = read("/proc/cpuinfo");
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.trim() == name).map(|(_, it)| it.trim().to_owned()).collect()
}

fn cpu() -> String {
    of_cpuinfo("model name").pop().unwrap_or_else(|| "unknown".to_owned())
}

fn cpus() -> usize {
    of_cpuinfo("processor").len()
}

fn memory() -> u64 {
    let text = read("/proc/meminfo");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// The first line of `--version`.
fn version(tool: &str) -> String {
    let output = Command::new(tool).arg("--version").env("PATH", crate::node::PATH).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}
