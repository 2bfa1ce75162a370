//! The cluster's secret file: what is spoken, what else is accepted, and the seed of the client hash.
//!
//! A line is a secret (64 hex digits), `seed` and 64 hex digits, a `#` comment, or empty. One secret alone is also
//! what the seed is derived from. Where a second secret is accepted, for the time of a change, the seed has a line
//! of its own and stays when the secrets go: hosts of different seeds would disagree about slices.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::random;

const ADD: &str = "onemac keygen --add";
const DROP: &str = "onemac keygen --drop";

/// One shared secret: 32 bytes. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

/// The public name of a secret, by which operators and agents tell two of them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId(pub [u8; 4]);

/// What the secret file holds: one secret, or two of which the first is spoken to every host that accepts it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrets {
    first: Secret,
    second: Option<Secret>,
    /// The seed of the client hash is the beginning of this.
    hash_key: [u8; 32],
}

/// A key that agents authenticate by, and its name.
#[derive(Clone)]
pub struct Key {
    /// The secret's name.
    pub id: SecretId,
    /// The key for datagrams, from which that for frames is derived.
    pub gossip: [u8; 32],
}

impl Secret {
    /// A new one.
    pub fn random() -> Result<Self> {
        Ok(Secret(random::bytes()?))
    }

    /// As it is written to a file.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Its name.
    pub fn id(&self) -> SecretId {
        let [a, b, c, d, ..] = blake3::derive_key("onemac 2026-11 name of a secret", &self.0);
        SecretId([a, b, c, d])
    }

    fn key(&self) -> Key {
        Key { id: self.id(), gossip: blake3::derive_key("onemac 2026-11 gossip authentication", &self.0) }
    }

    fn hash_key(&self) -> [u8; 32] {
        blake3::derive_key("onemac 2026-11 client hash seed", &self.0)
    }
}

impl Secrets {
    /// What a file without a `seed` line and with this secret alone holds.
    pub fn of(secret: Secret) -> Self {
        Secrets { hash_key: secret.hash_key(), first: secret, second: None }
    }

    /// What `text` holds, or what is wrong with which line.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let mut secrets: Vec<(usize, Secret)> = Vec::new();
        let mut seed: Option<(usize, [u8; 32])> = None;
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(digits) = line.strip_prefix("seed") {
                let bytes = bytes(digits.trim())
                    .ok_or_else(|| format!("line {number} is not `seed` and 64 hex digits"))?;
                if let Some((first, _)) = seed.replace((number, bytes)) {
                    return Err(format!("lines {first} and {number} are both a seed: one is too many"));
                }
                continue;
            }
            let secret = bytes(line)
                .map(Secret)
                .ok_or_else(|| format!("line {number} is not 64 hex digits (32 bytes)"))?;
            if let Some((first, _)) = secrets.iter().find(|(_, other)| *other == secret) {
                return Err(format!("lines {first} and {number} are the same secret: remove one"));
            }
            secrets.push((number, secret));
        }
        let mut secrets = secrets.into_iter();
        let (_, first) =
            secrets.next().ok_or("it holds no secret: 64 hex digits (32 bytes), see `onemac keygen`")?;
        let second = secrets.next();
        if let Some((third, _)) = secrets.next() {
            return Err(format!(
                "line {third} is a third secret: at most two are accepted, finish one change first"
            ));
        }
        if let (Some((number, _)), None) = (&second, &seed) {
            return Err(format!(
                "line {number} is a second secret, but no line says `seed`, by which clients are divided: begin \
                 with the file of one secret and `{ADD}`"
            ));
        }
        let hash_key = seed.map_or_else(|| first.hash_key(), |(_, bytes)| bytes);
        Ok(Secrets { first, second: second.map(|(_, secret)| secret), hash_key })
    }

    /// Reads the file. Refuses one that others than its owner can read.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (mut file, metadata) = opened.map_err(|e| {
            let advice = "make one with `onemac keygen` and copy the same file to every host";
            Failure::usage(format_args!("cannot read the secret {shown}: {e}; {advice}"))
        })?;
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o7777;
            return Err(Failure::usage(format_args!(
                "the secret {shown} can be read or changed by others (mode {mode:04o}): chmod 600 {shown}, and \
                 consider a new one if it has been so for long"
            )));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)
            .map_err(|e| Failure::usage(format_args!("cannot read the secret {shown}: {e}")))?;
        Self::parse(&text).map_err(|why| Failure::usage(format_args!("the secret {shown}: {why}")))
    }

    /// The seed of the client hash: nobody outside can choose clients that all fall on one host.
    pub fn hash_seed(&self) -> u32 {
        let [a, b, c, d, ..] = self.hash_key;
        u32::from_le_bytes([a, b, c, d])
    }

    /// What the seed is part of, too long to be found by trying.
    pub fn hash_key(&self) -> &[u8; 32] {
        &self.hash_key
    }

    /// The keys of the accepted secrets, the one to be spoken first.
    pub fn keys(&self) -> Vec<Key> {
        [Some(&self.first), self.second.as_ref()].into_iter().flatten().map(Secret::key).collect()
    }

    /// The names of the accepted secrets, the one to be spoken first.
    pub fn ids(&self) -> Vec<SecretId> {
        self.keys().iter().map(|key| key.id).collect()
    }

    /// The same with a new first secret; none if there are two already.
    #[must_use]
    pub fn with(&self, new: Secret) -> Option<Self> {
        let second = self.second.is_none().then(|| self.first.clone())?;
        Some(Secrets { first: new, second: Some(second), hash_key: self.hash_key })
    }

    /// The first secret alone; none if there is no second one.
    #[must_use]
    pub fn without_second(&self) -> Option<Self> {
        self.second.as_ref().map(|_| Secrets { second: None, ..self.clone() })
    }

    /// As a file holds it.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        if self.second.is_some() || self.hash_key != self.first.hash_key() {
            text += "# By the seed clients are divided among the hosts: it stays when the secret changes.\n";
            text += &format!("seed {}\n", hex(&self.hash_key));
        }
        if let Some(second) = &self.second {
            text += &format!(
                "# {} is spoken to every host that accepts it, {} is also accepted: see `{DROP}`.\n",
                self.first.id(),
                second.id()
            );
        }
        for secret in [Some(&self.first), self.second.as_ref()].into_iter().flatten() {
            text += &format!("{}\n", secret.to_hex());
        }
        text
    }

    /// Puts this in the place of the file, or of the one that a link leads to, whole or not at all, with the same owner,
    /// for that owner only.
    pub fn replace(&self, path: &Path) -> Result<()> {
        let cannot = |e| Failure::failed(format_args!("cannot write {}: {e}", path.display()));
        let path = &path.canonicalize().map_err(cannot)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        let owner = fs::metadata(path).map_err(cannot)?;
        // What a former try has left may have another mode.
        let _ = fs::remove_file(&new);
        let write = || {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
            file.write_all(self.to_text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&new);
            cannot(error)
        })?;
        // So that the new name outlives a power cut too. The file is in its place whatever this says.
        let _ = path.parent().map(|directory| File::open(directory)?.sync_all());
        Ok(())
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> Secret {
        Secret([n; 32])
    }

    fn why(text: &str) -> String {
        Secrets::parse(text).err().expect("it is wrong")
    }

    #[test]
    fn a_secret_is_sixty_four_hex_digits() {
        let hex = "00ff".repeat(16);
        assert_eq!(Secrets::parse(&format!(" {hex}\n")).unwrap().first.0[..2], [0, 255]);
        for wrong in ["00", &hex[1..], &format!("{hex}00"), &hex.replace('f', "g")] {
            assert_eq!(why(&format!("# mine\n\n{wrong}")), "line 3 is not 64 hex digits (32 bytes)");
        }
        assert!(why("# nothing\n").contains("no secret"));
    }

    #[test]
    fn what_is_wrong_with_two_secrets_is_said_with_its_line() {
        let [a, b, c] = [1, 2, 3].map(|n| secret(n).to_hex());
        let seed = format!("seed {c}");
        assert!(why(&format!("{a}\n{b}")).contains("line 2 is a second secret, but no line says `seed`"));
        assert!(why(&format!("{seed}\n{a}\n{b}\n{c}")).contains("line 4 is a third secret"));
        assert!(why(&format!("{seed}\n{a}\n\n{a}")).contains("lines 2 and 4 are the same secret"));
        assert!(why(&format!("{seed}\n{seed}\n{a}")).contains("lines 1 and 2 are both a seed"));
        assert!(why(&format!("seed {}\n{a}", &c[1..])).contains("line 1 is not `seed` and 64 hex digits"));
    }

    #[test]
    fn seed_key_and_name_are_derived_apart() {
        let [one, other] = [1, 2].map(|n| Secrets::of(secret(n)));
        assert_ne!(one.hash_seed(), other.hash_seed());
        assert_ne!(one.keys()[0].gossip[..4], one.hash_seed().to_le_bytes());
        assert_ne!(one.ids()[0].0, one.hash_seed().to_le_bytes());
        assert_ne!(one.ids(), other.ids());
    }

    #[test]
    fn the_seed_stays_through_every_change() {
        let mut now = Secrets::of(secret(1));
        let seed = now.hash_seed();
        assert_eq!(now.to_text(), format!("{}\n", secret(1).to_hex()), "a plain file stays plain");
        for n in 2..5 {
            let two = now.with(secret(n)).unwrap();
            assert_eq!(two.ids(), [secret(n).id(), now.ids()[0]]);
            assert!(two.with(secret(9)).is_none());
            let one = two.without_second().unwrap();
            assert!(one.without_second().is_none());
            for secrets in [&two, &one] {
                assert_eq!(secrets.hash_seed(), seed);
                assert!(Secrets::parse(&secrets.to_text()).unwrap() == *secrets);
            }
            now = one;
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_stays_its_owners() {
        let path = std::env::temp_dir().join(format!("onemac-secret-{}", std::process::id()));
        fs::write(&path, "old").unwrap();
        Secrets::of(secret(1)).replace(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(Secrets::load(&path).unwrap() == Secrets::of(secret(1)));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_link_stays_a_link_and_a_failure_leaves_nothing() {
        let directory = std::env::temp_dir().join(format!("onemac-secret-link-{}", std::process::id()));
        let [file, link, kept] = ["file", "link", "kept"].map(|name| directory.join(name));
        fs::create_dir_all(&kept).unwrap();
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        Secrets::of(secret(1)).replace(&link).unwrap();
        assert!(link.is_symlink() && Secrets::load(&file).unwrap() == Secrets::of(secret(1)));
        assert!(Secrets::of(secret(1)).replace(&kept).is_err(), "a directory");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 3);
        fs::remove_dir_all(&directory).unwrap();
    }
}
