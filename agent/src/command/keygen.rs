//! `onemac keygen`: a secret for a new cluster, and the steps by which a running one changes its secret.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::secret::{Secret, Secrets};

/// A new secret alone: into a new file, or printed.
pub fn create(file: Option<&Path>) -> Result<()> {
    let text = Secrets::of(Secret::random()?).to_text();
    let Some(file) = file else {
        print!("{text}");
        return Ok(());
    };
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(|mut f| {
        // Half a secret is none.
        f.write_all(text.as_bytes()).and_then(|()| f.sync_all()).inspect_err(|_| {
            let _ = fs::remove_file(file);
        })
    });
    written.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::failed(format_args!(
            "{0} is there already and is not overwritten; to change the secret of a cluster: onemac keygen --add {0}",
            file.display()
        )),
        _ => Failure::failed(format_args!("cannot write {}: {e}", file.display())),
    })
}

/// A new secret besides the one in the file.
pub fn add(file: &Path) -> Result<()> {
    let shown = file.display();
    let before = Secrets::load(file)?;
    let Some(after) = before.with(Secret::random()?) else {
        return Err(Failure::failed(format_args!(
            "{shown} holds two secrets already: finish that change first, with `onemac keygen --drop {shown}` when \
             `onemac status` says so on every host"
        )));
    };
    after.replace(file)?;
    if let [new, old] = after.ids()[..] {
        println!(
            "{shown} now holds the new secret {new} and the old one {old}.\n\
             Next: copy it to every host (mode 0600), then `onemac reload` on every host. The order does not matter.\n\
             When `onemac status` says that every living host speaks {new}: `onemac keygen --drop {shown}`."
        );
    }
    Ok(())
}

/// The first secret alone.
pub fn drop(file: &Path) -> Result<()> {
    let shown = file.display();
    let before = Secrets::load(file)?;
    let Some(after) = before.without_second() else {
        return Err(Failure::failed(format_args!(
            "{shown} holds one secret: there is none to drop; a change begins with `onemac keygen --add {shown}`"
        )));
    };
    after.replace(file)?;
    if let [new, old] = before.ids()[..] {
        println!(
            "{shown} now holds the secret {new} alone; the old one, {old}, is gone from it.\n\
             Next: copy it to every host (mode 0600), then `onemac reload` on every host. The order does not matter."
        );
    }
    Ok(())
}
