//! Kernel settings: read, compare, write, remember, restore.

use std::fs;
use std::path::{Path, PathBuf};

use onemac_rules::sysctl::Sysctl;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::files;
use crate::warnings::Warnings;

/// Settings of devices that outlive the agent, as they were before it changed them. Kept in the run
/// directory, so that `onemac clean` can restore what a killed agent changed.
pub struct Changed {
    file: PathBuf,
    former: Vec<Former>,
}

/// The file: where the settings are, and what they were.
#[derive(Serialize, Deserialize)]
struct Record {
    /// A boot resets all settings; what was noted before it means nothing.
    boot: String,
    /// Settings of network devices belong to a network namespace.
    namespace: String,
    former: Vec<Former>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Former {
    path: String,
    was: u32,
    now: u32,
}

impl Changed {
    /// What an earlier run in this directory changed and did not restore. A file that cannot be read is put aside: what
    /// was in it is lost in any case.
    pub fn load(run_dir: &Path, warnings: &Warnings) -> Result<Self> {
        let file = run_dir.join("sysctls.json");
        let nothing = Changed { file: file.clone(), former: Vec::new() };
        let Ok(text) = fs::read(&file) else { return Ok(nothing) };
        let record: Record = match serde_json::from_slice(&text) {
            Ok(record) => record,
            Err(error) => {
                put_aside(&file, &error, warnings)?;
                return Ok(nothing);
            }
        };
        let (boot, namespace) = whereabouts();
        if record.boot != boot {
            return Ok(nothing);
        }
        if record.namespace != namespace {
            return Err(Failure::failed(format_args!(
                "{} belongs to an agent in another network namespace ({}, this is {namespace}): run there, or \
                 with another --run-dir",
                file.display(),
                record.namespace
            )));
        }
        Ok(Changed { file, former: record.former })
    }

    /// The paths that are to be restored.
    pub fn paths(&self) -> Vec<String> {
        self.former.iter().map(|f| f.path.clone()).collect()
    }

    /// Makes the settings as wanted, remembering what they were before it changes them; says which it changed.
    pub fn apply(&mut self, settings: &[Sysctl]) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for setting in settings {
            let Some(own) = unmet(setting)? else { continue };
            self.remember(&setting.path, own, setting.value)?;
            write_checked(setting)?;
            changed.push(was(setting, own));
        }
        Ok(changed)
    }

    /// The device has another name, and so have its settings.
    pub fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (format!("/conf/{from}/"), format!("/conf/{to}/"));
        let moved: Vec<&mut Former> = self.former.iter_mut().filter(|f| f.path.contains(&from)).collect();
        if moved.is_empty() {
            return Ok(());
        }
        moved.into_iter().for_each(|former| former.path = former.path.replace(&from, &to));
        self.save()
    }

    /// Where the setting for all devices is in the way of these: gives each other device, and those to come, what the
    /// kernel makes of both, and takes the one for all away. For the other devices nothing changes.
    pub fn make_way(&mut self, settings: &[Sysctl]) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for setting in settings {
            let Some(all) = &setting.combined_with else { continue };
            let value = read(all)?;
            if setting.is_met(setting.value, Some(value)) {
                continue;
            }
            let dotted = |path: &str| path.replace('/', ".");
            tracing::info!("{} is {value}: it goes to each device but ours, one by one", dotted(all));
            for path in each_device(all)? {
                // A device may go at any moment, and its settings with it.
                let Ok(own) = read(&path) else { continue };
                if path != setting.path && own < value {
                    self.remember(&path, own, value)?;
                    write(&path, value).or_else(|e| read(&path).map_or(Ok(()), |_| Err(e)))?;
                }
            }
            self.remember(all, value, 0)?;
            write(all, 0)?;
            changed.push(format!("{} was {value}", dotted(all)));
        }
        Ok(changed)
    }

    fn remember(&mut self, path: &str, was: u32, now: u32) -> Result<()> {
        // An earlier run's memory is the older one, and so the right one.
        match self.former.iter_mut().find(|f| f.path == path) {
            Some(former) => former.now = now,
            None => self.former.push(Former { path: path.into(), was, now }),
        }
        self.save()
    }

    /// Puts back what was changed, except what somebody else has changed since.
    pub fn restore(&mut self) -> Result<()> {
        let mut failure = Ok(());
        for former in std::mem::take(&mut self.former).into_iter().rev() {
            match read(&former.path) {
                Ok(value) if value == former.now => failure = failure.and(write(&former.path, former.was)),
                Ok(value) => {
                    tracing::info!("{} is {value} by somebody else's hand: left alone", former.path);
                }
                // The device is gone and its settings with it.
                Err(_) => {}
            }
        }
        failure?;
        match fs::remove_file(&self.file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Failure::failed(format_args!("cannot remove {}: {e}", self.file.display())))
            }
            _ => Ok(()),
        }
    }

    fn save(&self) -> Result<()> {
        let (boot, namespace) = whereabouts();
        let record = Record { boot, namespace, former: self.former.clone() };
        let bytes = serde_json::to_vec_pretty(&record).map_err(Failure::failed)?;
        files::replace(&self.file, &bytes)
            .map_err(|e| Failure::failed(format_args!("cannot write {}: {e}", self.file.display())))
    }
}

/// Keeps a broken file for the operator, where it is in nobody's way.
fn put_aside(file: &Path, error: &serde_json::Error, warnings: &Warnings) -> Result<()> {
    let aside = file.with_extension("json.broken");
    fs::rename(file, &aside)
        .map_err(|e| Failure::failed(format_args!("cannot put {} aside: {e}", file.display())))?;
    warnings.raise(
        "sysctls",
        format!(
            "the former kernel settings in {} cannot be read ({error}): an agent changed some before, and nobody can \
             restore them",
            file.display()
        ),
        format!(
            "look at {}, at the settings that docs/ruleset.md lists, and at /etc/sysctl.d; then restart the agent",
            aside.display()
        ),
    );
    Ok(())
}

/// This boot, and this network namespace.
fn whereabouts() -> (String, String) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().into();
    let namespace = fs::read_link("/proc/self/ns/net").unwrap_or_default();
    (boot, namespace.display().to_string())
}

/// The same setting of every device, that of devices to come first.
fn each_device(all: &str) -> Result<Vec<String>> {
    let Some((conf, name)) = all.split_once("/all/") else { return Ok(Vec::new()) };
    let listed = fs::read_dir(Path::new("/proc/sys").join(conf))
        .map_err(|e| Failure::failed(format_args!("cannot list /proc/sys/{conf}: {e}")))?;
    let devices = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let devices = devices.filter(|device| device != "all" && device != "default");
    Ok(["default".into()].into_iter().chain(devices).map(|d: String| format!("{conf}/{d}/{name}")).collect())
}

/// Makes settings that vanish by themselves; says which it changed.
pub fn apply_unremembered(settings: &[Sysctl]) -> Result<Vec<String>> {
    let mut changed = Vec::new();
    for setting in settings {
        if let Some(own) = unmet(setting)? {
            write_checked(setting)?;
            changed.push(was(setting, own));
        }
    }
    Ok(changed)
}

/// What a setting was, in words.
fn was(setting: &Sysctl, own: u32) -> String {
    format!("{} was {own}", setting.path.replace('/', "."))
}

/// The present value, if the kernel does not act as wanted.
fn unmet(setting: &Sysctl) -> Result<Option<u32>> {
    if setting.optional && !Path::new("/proc/sys").join(&setting.path).exists() {
        tracing::debug!("{} is not there: left alone", setting.path);
        return Ok(None);
    }
    let own = read(&setting.path)?;
    Ok((!setting.is_met(own, all(setting)?)).then_some(own))
}

fn all(setting: &Sysctl) -> Result<Option<u32>> {
    setting.combined_with.as_deref().map(read).transpose()
}

fn write_checked(setting: &Sysctl) -> Result<()> {
    write(&setting.path, setting.value)?;
    if setting.is_met(read(&setting.path)?, all(setting)?) {
        return Ok(());
    }
    let in_the_way = setting.combined_with.as_deref().unwrap_or(&setting.path).replace('/', ".");
    Err(Failure::failed(format_args!(
        "{in_the_way} overrides {}, which must act as {}: {}; change it with sysctl -w",
        setting.path.replace('/', "."),
        setting.value,
        setting.reason
    )))
}

/// The present value of a setting.
pub(super) fn read(path: &str) -> Result<u32> {
    let full = Path::new("/proc/sys").join(path);
    let text = fs::read_to_string(&full)
        .map_err(|e| Failure::failed(format_args!("cannot read {}: {e}", full.display())))?;
    text.trim().parse().map_err(|_| {
        Failure::failed(format_args!("{} holds `{}`, not a number", full.display(), text.trim()))
    })
}

fn write(path: &str, value: u32) -> Result<()> {
    let full = Path::new("/proc/sys").join(path);
    fs::write(&full, value.to_string())
        .map_err(|e| Failure::failed(format_args!("cannot write {value} to {}: {e}", full.display())))
}
