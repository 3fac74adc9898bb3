//! What is known of a model, for people.

use super::Args;
use super::group::group;
use crate::cli::output::{self, Align, Table};
use crate::inspect::{Attention, Known, Port, Report};
use crate::num;

/// The report as text.
pub(super) fn render(report: &Report, args: &Args) -> String {
    let mut sections = vec![summary(report), ports(report)];
    sections.extend([projections(report), attentions(report), embeddings(report), methods(report)].into_iter().flatten());
    sections.push(gradients(report));
    if args.ops {
        sections.push(operators(report));
    }
    sections.extend(report.values.as_deref().map(values));
    if args.explain {
        sections.push(misses(report));
    }
    sections.join("\n")
}

fn summary(report: &Report) -> String {
    let opsets = report.domains.iter().map(|domain| format!("{} {}", domain.name, domain.version));
    let opsets: Vec<String> = std::iter::once(format!("opset {}", report.opset)).chain(opsets).collect();
    let by = report.producer.as_ref().map(|producer| format!("; written by {producer}")).unwrap_or_default();
    let mut lines = vec![
        report.file.clone(),
        format!("  {}; IR version {}; {} nodes{by}", opsets.join(", "), report.ir_version, output::count(number(report.nodes))),
    ];
    for row in &report.constants {
        lines.push(format!(
            "  {} numbers of type {} in {} initializers, {}",
            output::count(row.numbers),
            row.dtype,
            row.tensors,
            output::bytes(row.bytes)
        ));
    }
    if !report.unknown_operators.is_empty() {
        lines.push(format!("  operators that are not known here: {}", report.unknown_operators.join(", ")));
    }
    if let Some(kind) = &report.kind {
        lines.push(format!("  no transformer was recognised: {kind}"));
        return lines.join("\n") + "\n";
    }
    let task = report.task.unwrap_or("not recognised");
    let because = if report.task_because.is_empty() { String::new() } else { format!(" ({})", report.task_because) };
    lines.push(format!("  task {task}{because}"));
    let mut size = vec![format!("{} layers", report.layers), format!("{} projections", report.projections.len())];
    size.push(format!("{} attentions", report.attentions.len()));
    size.extend(report.max_positions.map(|most| format!("up to {most} positions")));
    lines.push(format!("  {}", size.join(", ")));
    lines.join("\n") + "\n"
}

fn ports(report: &Report) -> String {
    let mut table = Table::new(&[("", Align::Left), ("name", Align::Left), ("type", Align::Left), ("shape", Align::Left)]);
    let shape = |port: &Port| port.shape.as_ref().map_or_else(|| "unknown".to_owned(), |shape| format!("[{}]", shape.join(", ")));
    // A cache has dozens of inputs and outputs that look alike.
    let is_cache = |port: &&Port| port.name.starts_with("past") || port.name.starts_with("present");
    for (what, ports) in [("input", &report.inputs), ("output", &report.outputs)] {
        for port in ports.iter().filter(|port| !is_cache(port)) {
            let what = if port.optional { format!("{what}, optional") } else { what.to_owned() };
            table.row([what, port.name.clone(), port.dtype.to_owned(), shape(port)]);
        }
        let cached: Vec<&Port> = ports.iter().filter(is_cache).collect();
        if let [first, .., last] = cached[..] {
            let names = format!("{} .. {}", first.name, last.name);
            table.row([format!("{} {what}s", cached.len()), names, first.dtype.to_owned(), shape(first)]);
        }
    }
    if report.inputs.is_empty() && report.outputs.is_empty() {
        return "no inputs, no outputs\n".to_owned();
    }
    format!("inputs and outputs\n{}", table.render(2))
}

fn projections(report: &Report) -> Option<String> {
    let columns = [("module", Align::Left), ("", Align::Right), ("in", Align::Right), ("out", Align::Right), ("stored", Align::Left)];
    let more = [("bias", Align::Left), ("parameters each", Align::Right)];
    let mut table = Table::new(&[&columns[..], &more[..]].concat());
    let key = |row: &crate::inspect::Projection| format!("{} {} {} {}", row.in_features, row.out_features, row.layout, row.bias);
    for group in group(&report.projections, |row| &row.module, key) {
        let Some(first) = group.rows.first() else { continue };
        table.row([
            group.name,
            format!("{} x", group.rows.len()),
            first.in_features.to_string(),
            first.out_features.to_string(),
            format!("{}{}", first.layout, if first.conv1d { " (Conv1D)" } else { "" }),
            if first.bias { "yes" } else { "no" }.to_owned(),
            output::count(first.parameters.unsigned_abs()),
        ]);
    }
    (!report.projections.is_empty()).then(|| format!("projections\n{}", table.render(2)))
}

fn attentions(report: &Report) -> Option<String> {
    let columns =
        [("module", Align::Left), ("", Align::Right), ("heads", Align::Right), ("kv heads", Align::Right), ("size", Align::Right)];
    let more = [("scale", Align::Right), ("mask", Align::Left)];
    let mut table = Table::new(&[&columns[..], &more[..]].concat());
    let known = |value: Option<i64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    for group in group(&report.attentions, |row| &row.module, |row| format!("{:?}", (row.heads, row.kv_heads, row.head_size, mask(row)))) {
        let Some(first) = group.rows.first() else { continue };
        table.row([
            group.name,
            format!("{} x", group.rows.len()),
            known(first.heads),
            known(first.kv_heads),
            known(first.head_size),
            first.scale.map_or_else(|| "?".to_owned(), |scale| format!("{scale:.6}")),
            mask(first),
        ]);
    }
    (!report.attentions.is_empty()).then(|| format!("attention\n{}", table.render(2)))
}

fn mask(row: &Attention) -> String {
    let mut words = row.masks.clone();
    words.extend(row.causal.then_some("causal"));
    words.extend(row.cross.then_some("cross"));
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn embeddings(report: &Report) -> Option<String> {
    let mut table = Table::new(&[("module", Align::Left), ("rows", Align::Right), ("width", Align::Right), ("", Align::Left)]);
    for row in &report.embeddings {
        table.row([row.module.clone(), row.rows.to_string(), row.hidden.to_string(), if row.tokens { "tokens" } else { "" }.to_owned()]);
    }
    if let Some(head) = &report.head {
        let module = head.module.clone().unwrap_or_else(|| "?".to_owned());
        let classes = head.classes.map_or_else(|| "?".to_owned(), |classes| classes.to_string());
        let tied = if head.tied { ", its weight is the token embedding's" } else { "" };
        table.row([module, classes, String::new(), format!("head: gives {}{tied}", head.logits)]);
    }
    (!report.embeddings.is_empty() || report.head.is_some()).then(|| format!("embeddings and head\n{}", table.render(2)))
}

fn methods(report: &Report) -> Option<String> {
    let sites = &report.sites;
    let total: u64 = report.constants.iter().map(|row| row.numbers).sum();
    let mut table = Table::new(&[("method", Align::Left), ("trains", Align::Right), ("of the model", Align::Right)]);
    let rows = [
        ("lora, rank 8, all-linear", (sites.lora_all_linear_rank_8 > 0).then_some(sites.lora_all_linear_rank_8)),
        ("prompt_tuning, 20 virtual tokens", sites.prompt_tokens_20),
        ("p_tuning_v2, 20 virtual tokens", sites.prefix_tokens_20),
    ];
    let mut any = false;
    for (name, count) in rows {
        let Some(count) = count.and_then(|count| u64::try_from(count).ok()) else { continue };
        any = true;
        table.row([name.to_owned(), output::count(count), output::percent(count, total)]);
    }
    any.then(|| format!("what methods would train\n{}", table.render(2)))
}

fn gradients(report: &Report) -> String {
    if report.head.is_none() {
        return "gradients\n  no output of logits was recognised, so there is nothing to train towards (--explain says what was looked for)\n".to_owned();
    }
    if report.no_gradient.is_empty() {
        return "gradients\n  every operator between the projections and the logits has a rule\n".to_owned();
    }
    let lines: Vec<String> = report.no_gradient.iter().map(|at| format!("  {} {}: {}\n", at.operator, at.node, at.why)).collect();
    format!("gradients cannot pass {} nodes\n{}", lines.len(), lines.concat())
}

fn operators(report: &Report) -> String {
    let mut table = Table::new(&[("operator", Align::Left), ("count", Align::Right), ("gradient", Align::Left)]);
    for row in &report.operators {
        let stopped = if row.missing > 0 { format!(" ({} in the way)", row.missing) } else { String::new() };
        table.row([row.name.clone(), row.count.to_string(), format!("{}{stopped}", row.gradient)]);
    }
    format!("operators\n{}", table.render(2))
}

fn values(values: &[Known]) -> String {
    let mut table = Table::new(&[("value", Align::Left), ("type", Align::Left), ("shape", Align::Left), ("made by", Align::Left)]);
    for value in values {
        let shape = value.shape.as_ref().map_or_else(|| "unknown".to_owned(), |shape| format!("[{}]", shape.join(", ")));
        let made_by = value.made_by.clone().unwrap_or_default();
        table.row([value.name.clone(), value.dtype.unwrap_or("unknown").to_owned(), shape, made_by]);
    }
    format!("values\n{}", table.render(2))
}

fn misses(report: &Report) -> String {
    if report.misses.is_empty() {
        return "nothing that was looked for is missing\n".to_owned();
    }
    let lines: Vec<String> = report.misses.iter().map(|miss| format!("  {}: {}\n", miss.at, miss.wanted)).collect();
    format!("not recognised\n{}", lines.concat())
}

fn number(count: usize) -> u64 {
    num::wide(count)
}
