//! A failing run told with as few faults as it needs (delta debugging; Zeller and Hildebrandt, 2002).

use crate::check::Violation;
use crate::config::Config;
use crate::fault::Planned;
use crate::run::run;

/// The shortest plan found that breaks the same promise, and how it does. `plan` must break one.
pub fn shorten(config: &Config, plan: &[Planned], first: &Violation) -> (Vec<Planned>, Violation) {
    let fails =
        |plan: &[Planned]| run(config, plan, false).violation.filter(|v| v.property == first.property);
    let mut best = (plan.to_vec(), first.clone());
    let mut parts = 2;
    while best.0.len() >= 2 {
        let size = best.0.len().div_ceil(parts);
        let without = |i: usize| -> Vec<Planned> {
            let part = i * size..((i + 1) * size).min(best.0.len());
            best.0.iter().enumerate().filter(|(n, _)| !part.contains(n)).map(|(_, p)| p.clone()).collect()
        };
        let shorter = (0..best.0.len().div_ceil(size)).find_map(|i| {
            let plan = without(i);
            fails(&plan).map(|violation| (plan, violation))
        });
        match shorter {
            Some(shorter) => {
                best = shorter;
                parts = (parts - 1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(best.0.len()),
        }
    }
    best
}
