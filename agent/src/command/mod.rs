//! The commands, one function each; the longer ones in files of their own.

mod inspect;
mod keygen;
mod orders;
mod replay;
mod run;

use std::fs;
use std::path::Path;

use clap::CommandFactory;

use crate::cli::{Cli, Command};
use crate::daemon::{self, Lock};
use crate::failure::{Failure, Result};
use crate::gossip::letter::Order;
use crate::secret::Secrets;
use crate::warnings::Warnings;
use crate::{kernel, plan, setup};

/// Carries out a command.
pub fn execute(command: Command) -> Result<()> {
    match command {
        Command::Run { config, host, record, run_dir } => {
            run::run(&config, host.as_deref(), record.as_deref(), &run_dir.run_dir)
        }
        Command::Check { file } => check(&file),
        Command::Plan { file, host, alive, json } => {
            print_plan(&file, host.as_deref(), alive.as_deref(), json)
        }
        Command::Owner { client, service, config, alive, json, run_dir } => match config {
            Some(file) => inspect::owner_by_file(client, service, &file, alive.as_deref(), json),
            None => inspect::owner_by_agent(client, service.as_deref(), &run_dir.run_dir, json),
        },
        Command::Status { json, run_dir } => inspect::status(&run_dir.run_dir, json),
        Command::Slices { json, run_dir } => inspect::slices(&run_dir.run_dir, json),
        Command::Drain { host, service, wait, run_dir } => {
            orders::drain(&run_dir.run_dir, host, service, wait)
        }
        Command::Resume { host, service, run_dir } => {
            orders::tell(&run_dir.run_dir, host, Order::Resume { service })
        }
        Command::Weight { host, weight, run_dir } => {
            orders::tell(&run_dir.run_dir, Some(host), Order::Weight { weight })
        }
        Command::Reload { run_dir } => orders::reload(&run_dir.run_dir),
        Command::Restart { run_dir } => orders::restart(&run_dir.run_dir),
        Command::Replay { file, all } => replay::replay(&file, all),
        Command::Clean { run_dir } => clean(&run_dir.run_dir),
        Command::Keygen { add: Some(file), .. } => keygen::add(&file),
        Command::Keygen { drop: Some(file), .. } => keygen::drop(&file),
        Command::Keygen { file, .. } => keygen::create(file.as_deref()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "onemac", &mut std::io::stdout());
            Ok(())
        }
        Command::Man => {
            let page = clap_mangen::Man::new(Cli::command());
            page.render(&mut std::io::stdout()).map_err(Failure::failed)
        }
    }
}

fn check(file: &Path) -> Result<()> {
    let definition = setup::load_definition(file)?;
    println!(
        "{}: cluster {}, {} hosts, {} shared addresses, {} slices: good",
        file.display(),
        definition.cluster,
        definition.hosts.len(),
        definition.vips.len(),
        definition.slices
    );
    for missing in definition.not_yet() {
        eprintln!("note: `run` and `plan` still refuse {missing}");
    }
    Ok(())
}

fn print_plan(file: &Path, host: Option<&str>, alive: Option<&[String]>, json: bool) -> Result<()> {
    let definition = setup::load_definition(file)?;
    setup::refuse_what_is_to_come(file, &definition)?;
    let host = setup::pick_host(&definition, host)?;
    let alive = setup::alive_hosts(&definition, alive)?;
    let secrets = Secrets::load(&setup::secret_path(file, &definition));
    let wanted = match secrets {
        Ok(secrets) => daemon::wanted(&definition, host, &secrets),
        // A plan is for reading and must not need the secret; only the seed in it does.
        Err(why) => {
            eprintln!("note: {why}; the plan shows a seed that is not the cluster's");
            let zeros = Secrets::parse(&"0".repeat(64)).map_err(Failure::failed)?;
            daemon::wanted(&definition, host, &zeros)
        }
    };
    let plan = plan::plan(&definition, host, alive, wanted);
    match json {
        true => print_json(&plan),
        false => {
            print!("{}", plan.to_text());
            Ok(())
        }
    }
}

fn clean(run_dir: &Path) -> Result<()> {
    let _lock = Lock::take()?;
    let warnings = Warnings::default();
    let cleaned = run::runtime()?.block_on(kernel::clean(run_dir, &warnings))?;
    for warning in warnings.list() {
        eprintln!("onemac: {}; {}", warning.what, warning.advice);
    }
    let _ = fs::remove_file(crate::control::socket_path(run_dir));
    daemon::forget(run_dir);
    let mut removed = Vec::new();
    if cleaned.device {
        removed.push(format!("the device {} with its addresses", kernel::SHARED_DEVICE));
    }
    if cleaned.rules {
        removed.push("the nftables table onemac".into());
    }
    for path in &cleaned.settings {
        removed.push(format!("the change to {}", path.replace('/', ".")));
    }
    match removed.is_empty() {
        true => println!("nothing of onemac is left here"),
        false => println!("removed {}", removed.join(", ")),
    }
    Ok(())
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(value).map_err(Failure::failed)?);
    Ok(())
}
