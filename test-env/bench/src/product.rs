//! The product's rules and its word on whose a client is: from the `onemac` command, like any user.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{self, DEVICE};

/// The host whose rules are measured, and all that are alive: each has a quarter of the slices.
const HOST: &str = "a";
const ALIVE: &str = "a,b,c,d";

/// What may differ between two clusters.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Slices of the client hash space.
    pub slices: u32,
    /// IPv4 VIPs; the first gives the cluster MAC.
    pub vips4: Vec<Ipv4Addr>,
    /// IPv6 VIPs.
    pub vips6: Vec<Ipv6Addr>,
}

/// A cluster of one shape, defined in a directory that is gone when this is.
pub struct Product {
    binary: String,
    directory: PathBuf,
    file: String,
}

impl Drop for Product {
    fn drop(&mut self) {
        // Nothing depends on it, and there is nobody left to tell.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Product {
    /// Defines a cluster of this shape for the binary named by `ONEMAC_BIN`, or the one beside this program.
    ///
    /// # Errors
    /// If the binary is missing or the definition can not be written.
    pub fn new(shape: &Shape) -> Result<Product> {
        let beside = std::env::current_exe().context("finding this program")?.with_file_name("onemac");
        let binary = std::env::var_os("ONEMAC_BIN").map_or(beside, PathBuf::from);
        ensure!(
            binary.is_file(),
            "{} is not there: `cargo build --release -p onemac`, or name it in ONEMAC_BIN",
            binary.display()
        );
        let name = format!("onemac-bench-{}-{}-{}", std::process::id(), shape.slices, shape.vips4.len());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
        let file = directory.join("cluster.yaml").display().to_string();
        let product = Product { binary: binary.display().to_string(), directory, file };
        // Always the same secret: always the same seed, owners and clients.
        write(&product.directory.join("secret.key"), &"5e".repeat(32))?;
        write(Path::new(&product.file), &definition(shape))?;
        Ok(product)
    }

    /// The nft text that the product would install on the host.
    ///
    /// # Errors
    /// If `onemac plan` fails or prints something else than agreed.
    pub fn rules(&self) -> Result<String> {
        let plan = self.ask(&["plan", &self.file, "--host", HOST, "--alive", ALIVE, "--json"])?;
        let text = plan["nft"].as_str().context("`onemac plan --json` printed no `nft`")?;
        Ok(text.to_string())
    }

    /// Whether the client is another host's.
    ///
    /// # Errors
    /// If `onemac owner` fails or prints something else than agreed.
    pub fn rejects(&self, client: IpAddr) -> Result<bool> {
        let client = client.to_string();
        let said = self.ask(&["owner", &client, "--config", &self.file, "--alive", ALIVE, "--json"])?;
        let owner = said["owner"].as_str().context("`onemac owner --json` printed no `owner`")?;
        Ok(owner != HOST)
    }

    fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let said = lab::run(&self.binary, arguments)?;
        serde_json::from_str(&said).with_context(|| format!("JSON of `onemac {}`", arguments.join(" ")))
    }
}

fn definition(shape: &Shape) -> String {
    let vips4 = shape.vips4.iter().map(|vip| IpAddr::V4(*vip));
    let vips6 = shape.vips6.iter().map(|vip| IpAddr::V6(*vip));
    let vips: Vec<String> = vips4.chain(vips6).map(|vip| format!("\"{vip}\"")).collect();
    let mut text = format!(
        "cluster: bench\nsecret_file: secret.key\nvips: [{}]\nslices: {}\nhosts:\n",
        vips.join(", "),
        shape.slices
    );
    for (number, name) in ALIVE.split(',').enumerate() {
        text += &format!(
            "  - {{ name: {name}, gossip: \"192.0.2.{}:7946\", interface: {DEVICE} }}\n",
            11 + number
        );
    }
    text
}

/// A secret that others can read is refused, so nobody else can read either file.
fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}
