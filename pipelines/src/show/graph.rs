//! The graph of a plan, drawn with boxes from top to bottom.
use super::human::{fit, width, wrap};
use crate::plan::Plan;
use contract::{Kind, Port, Role, Route};

/// Draws one box per stage, in the order in which data flows. The line between two boxes has a label with the kind of
/// packets and their route. Inputs from other stages are listed to the right of a box. At most `columns` wide.
pub fn graph(plan: &Plan, columns: usize) -> String {
    let order = plan.order();
    let inner_width = plan.stages.iter().map(|stage| width(&stage.id)).max().unwrap_or(0).min(columns / 3) + 2;
    let middle = inner_width / 2;
    let bar = |ends: [char; 2], joint: Option<char>| {
        let inner = (0..inner_width).map(|i| joint.filter(|_| i == middle).unwrap_or('─')).collect::<String>();
        format!("{}{inner}{}", ends[0], ends[1])
    };
    let mut lines: Vec<String> = Vec::new();
    for (place, at) in order.iter().enumerate() {
        let stage = &plan.stages[*at];
        let above = place.checked_sub(1).map(|place| order[place]);
        let (mut flows, mut sides) = (Vec::new(), Vec::new());
        for (port, edges) in stage.settings.takes().iter().zip(&stage.inputs) {
            let direct = edges.iter().any(|edge| Some(edge.from) == above && !edge.feedback);
            if direct {
                flows.push(label(port, false));
            }
            let others: Vec<_> = edges.iter().filter(|edge| !direct || Some(edge.from) != above).collect();
            if port.kind == Kind::Saved {
                sides.push(format!("{} ─ every stage", label(port, false)));
            } else if !others.is_empty() {
                let from: Vec<&str> = others.iter().map(|edge| &*plan.stages[edge.from].id).collect();
                sides.push(format!("{} ─ {}", label(port, others.iter().any(|e| e.feedback)), from.join(", ")));
            }
        }
        if !flows.is_empty() {
            for (i, flow) in flows.iter().enumerate() {
                let mark = if i + 1 == flows.len() { '▼' } else { '│' };
                lines.push(format!("{}{mark} {flow}", " ".repeat(middle + 1)));
            }
        }
        lines.push(bar(['╭', '╮'], (!flows.is_empty()).then_some('┴')));
        let next = order.get(place + 1).map(|next| &plan.stages[*next]);
        let goes_on = next.is_some_and(|next| next.inputs.iter().flatten().any(|e| e.from == *at && !e.feedback));
        let name = fit(&stage.id, inner_width - 2);
        lines.push(format!("│ {name}{} │ {}", " ".repeat(inner_width - 2 - width(&name)), stage.type_name));
        for side in sides {
            for (i, text) in wrap(&side, columns - inner_width - 6).into_iter().enumerate() {
                lines.push(format!("│{}│ {} {text}", " ".repeat(inner_width), if i == 0 { "◀─" } else { "  " }));
            }
        }
        lines.push(bar(['╰', '╯'], goes_on.then_some('┬')));
    }
    lines.iter().map(|line| fit(line.trim_end(), columns)).collect::<Vec<_>>().join("\n")
}

/// The label of an edge: the kind of its packets, their route, and their role at the consumer.
fn label(port: &Port, feedback: bool) -> String {
    let route = match port.route {
        Route::Stay => "stay",
        Route::Exchange => "exchange",
        Route::Broadcast => "broadcast",
        Route::Owners => "owners",
        Route::AnyWorker => "any worker",
    };
    let role = match port.role {
        Role::Stream => "stream",
        Role::State => "state",
    };
    let when = if feedback { ", feedback + 1 step" } else { "" };
    format!("{} ({route}, {role}{when})", port.kind.name())
}
