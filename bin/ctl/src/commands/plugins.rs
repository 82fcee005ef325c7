//! `plugins`: the daemon's parts, as clients of containerd know them.

use crate::{
    context::Context,
    failure::Outcome,
    output::{self, table::Table},
};
use clap::{Args, Subcommand};
use std::io::Write;
use wharf_messages::system::{ListPlugins, PluginInfo};

/// Show the parts of the daemon.
#[derive(Debug, Subcommand)]
pub enum Plugins {
    /// List them
    #[command(visible_alias = "ls")]
    List(List),
}

/// Which to list, and how.
#[derive(Debug, Args)]
pub struct List {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Print all that is known of each
    #[arg(long, short)]
    detailed: bool,
    /// Only those that pass one of these, such as type==io.containerd.snapshotter.v1
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

impl Plugins {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        let Self::List(list) = self;
        let plugins = context.client().await?.call(ListPlugins { filters: list.filters }).await?;
        let mut out = output::stdout();
        if list.quiet {
            plugins.iter().try_for_each(|plugin| writeln!(out, "{}", plugin.id))?;
        } else if list.detailed {
            details(&plugins).write(&mut out)?;
        } else {
            rows(&plugins).write(&mut out)?;
        }
        Ok(out.flush()?)
    }
}

fn rows(plugins: &[PluginInfo]) -> Table {
    let mut table = Table::wide();
    table.row(["TYPE", "ID", "PLATFORMS", "STATUS"]);
    for plugin in plugins {
        let status = match &plugin.problem {
            None => "ok",
            Some(problem) if problem.contains("skip plugin") => "skip",
            Some(_) => "error",
        };
        let platforms = plugin.platforms.join(",");
        let platforms = if platforms.is_empty() { "-" } else { &platforms };
        table.row([&plugin.kind, &plugin.id, platforms, status]);
    }
    table
}

fn details(plugins: &[PluginInfo]) -> Table {
    let mut table = Table::wide();
    for (i, plugin) in plugins.iter().enumerate() {
        if i > 0 {
            table.line(["", "", "", ""]);
        }
        // ctr puts a space after the tab, as Go's Println does between its arguments.
        table.line(["Type:", &format!(" {}", plugin.kind)]);
        table.line(["ID:", &format!(" {}", plugin.id)]);
        if !plugin.platforms.is_empty() {
            table.line(["Platforms:", &format!(" {}", plugin.platforms.join(","))]);
        }
        if !plugin.exports.is_empty() {
            table.line(["Exports:", ""]);
            for (key, value) in &plugin.exports {
                table.line(["", &format!(" {key}"), &format!(" {value}")]);
            }
        }
        if !plugin.capabilities.is_empty() {
            table.line(["Capabilities:", &format!(" {}", plugin.capabilities.join(","))]);
        }
        if let Some(problem) = &plugin.problem {
            table.line(["Error:", ""]);
            table.line(["", " Message:", &format!(" {problem}")]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(kind: &str, id: &str, platforms: &[&str], problem: Option<&str>) -> PluginInfo {
        PluginInfo {
            kind: kind.into(),
            id: id.into(),
            platforms: platforms.iter().map(|p| (*p).to_owned()).collect(),
            exports: wharf_messages::Labels::new(),
            capabilities: Vec::new(),
            problem: problem.map(str::to_owned),
        }
    }

    #[test]
    fn rows_are_those_of_ctr() {
        let plugins = [
            plugin("io.containerd.content.v1", "content", &[], None),
            plugin("io.containerd.snapshotter.v1", "aufs", &["linux/amd64"], Some("no aufs: skip plugin")),
            plugin("io.containerd.snapshotter.v1", "devmapper", &["linux/amd64"], Some("devmapper not configured")),
            plugin("io.containerd.service.v1", "introspection-service", &[], None),
        ];
        let mut out = Vec::new();
        rows(&plugins).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/plugins.txt"));
    }
}
