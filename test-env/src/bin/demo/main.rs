//! Shows the cluster at work: four hosts behind one address, a power cut, the healing, the return.
//!
//! The script `test-env/demo` builds what is needed and starts this program.

mod paper;
mod script;
mod signals;

use std::process::ExitCode;

use anyhow::{Result, bail};

/// The label of the demo's lab: its namespaces are `om-demo-h1`, `om-demo-client`, ….
const LABEL: &str = "demo";

const USAGE: &str = "\
demo: four hosts share one IP and one MAC address; one loses power; the rest heals; it comes back.

usage: demo [--keep] [--json] | demo --remove
  --keep     leave everything standing at the end, and say how to look around
  --json     print the figures only, as one JSON object
  --remove   remove what --keep left standing
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every promise was kept.
fn run() -> Result<bool> {
    let (mut keep, mut json) = (false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--json" => json = true,
            "--remove" => {
                onemac_test_env::remove(&format!("om-{LABEL}-"))?;
                return Ok(true);
            }
            "--help" | "-h" => {
                print!("{USAGE}");
                return Ok(true);
            }
            other => bail!("unknown option {other}\n{USAGE}"),
        }
    }
    signals::clean_up_on_ctrl_c(&format!("om-{LABEL}-"))?;
    let paper = paper::Paper::new(json);
    let (figures, lab) = script::play(&paper)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    }
    let kept = paper.verdict(&figures.promises);
    if keep {
        paper.around(&lab)?;
        lab.keep()?;
    }
    Ok(kept)
}
