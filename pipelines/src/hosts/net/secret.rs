//! The secret that all hosts of a run share, and proofs that one knows it.
//!
//! The head creates a file with 32 random bytes that only its user can read; the user copies it to the other hosts. It
//! never travels over a connection. Instead both sides of a connection choose a random number (a *nonce*) and prove the
//! secret with a keyed hash of both numbers, of what the connection is for, and of the side that proves it. So a proof
//! cannot be used a second time, for another purpose, or by sending it back to whoever made it.
//!
//! After the proofs, nothing is encrypted or signed: whoever can change packets between two hosts can also change what
//! they say after the proofs. In a network that others use, run the connections through a tunnel (WireGuard, SSH).
use anyhow::{Context, Result, bail};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The length of the secret, of nonces and of proofs.
pub const LENGTH: usize = 32;

/// A number that is used once.
pub type Nonce = [u8; LENGTH];

/// What proves the secret to the other side.
pub type Proof = [u8; LENGTH];

/// The side of a connection that proves the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that connects.
    Dialer = 1,
    /// The side that accepts.
    Listener = 2,
}

/// The secret of a run.
#[derive(Clone)]
pub struct Secret([u8; LENGTH]);

/// Without the secret, which would otherwise end up in messages.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A number that nobody can guess, from the operating system.
///
/// # Errors
/// If the system has none.
pub fn nonce() -> std::io::Result<Nonce> {
    let mut nonce = [0; LENGTH];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

impl Secret {
    /// A new secret.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self> {
        nonce().map(Self).context("cannot make a secret: the system has no random numbers")
    }

    /// The secret in the file `path`, which is created if it is not there. For the head.
    ///
    /// # Errors
    /// If the file cannot be created, or is there and [cannot be used](Self::read).
    pub fn create_or_read(path: &Path) -> Result<Self> {
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            _ => return Self::read(path),
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let what = || format!("cannot create the secret {}", path.display());
        std::fs::create_dir_all(folder).with_context(what)?;
        let secret = Self::random()?;
        // The file appears with its content, and replaces none: two heads that start at once use the same secret.
        let temporary = folder.join(format!(".secret.{}.part", secret.file_name_part()));
        let linked = secret.write(&temporary).and_then(|()| std::fs::hard_link(&temporary, path));
        let _ = std::fs::remove_file(&temporary);
        match linked {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Self::read(path),
            linked => linked.with_context(what).map(|()| secret),
        }
    }

    /// The secret in the file `path`.
    ///
    /// # Errors
    /// If it cannot be read, if it is no secret, or if other users may read it.
    pub fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| {
            format!("cannot read the secret {shown}; copy it from the head, which creates it, and keep its mode 600")
        })?;
        let about = file.metadata().with_context(|| format!("cannot read the secret {shown}"))?;
        if !about.is_file() {
            bail!("the secret {shown} is no regular file");
        }
        let mode = about.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            bail!("other users may read or change the secret {shown} (mode {mode:o}): run `chmod 600 {shown}`");
        }
        let mut text = String::new();
        // More than a secret is long, so that a large file is not read.
        file.take(4 * LENGTH as u64).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
        let hash = blake3::Hash::from_hex(text.trim()).map_err(|_| {
            anyhow::anyhow!(
                "{shown} is no secret, which is one line of {} hexadecimal digits; copy the head's file again",
                2 * LENGTH
            )
        })?;
        Ok(Self(*hash.as_bytes()))
    }

    /// Proves the secret to the other side.
    pub fn prove(&self, side: Side, dialer: &Nonce, listener: &Nonce, subject: &[u8]) -> Proof {
        *self.hash(side, dialer, listener, subject).as_bytes()
    }

    /// Whether the other side knows the secret. Takes the same time for every wrong proof.
    pub fn accepts(&self, proof: &Proof, side: Side, dialer: &Nonce, listener: &Nonce, subject: &[u8]) -> bool {
        // `Hash` compares in constant time.
        self.hash(side, dialer, listener, subject) == *proof
    }

    fn hash(&self, side: Side, dialer: &Nonce, listener: &Nonce, subject: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // All but the last have a fixed length, so no two different inputs are the same bytes.
        hasher.update(b"millrace host").update(&[side as u8]).update(dialer).update(listener).update(subject);
        hasher.finalize()
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{}", blake3::Hash::from_bytes(self.0).to_hex())?;
        file.sync_all()
    }

    /// A name for the temporary file that tells nothing about the secret.
    fn file_name_part(&self) -> String {
        blake3::keyed_hash(&self.0, b"name of a temporary file").to_hex()[..16].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_only_its_user_can_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/secret");
        let created = Secret::create_or_read(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(Secret::create_or_read(&path).unwrap().0, created.0);
        assert_eq!(Secret::read(&path).unwrap().0, created.0);
        assert_ne!(created.0, Secret::random().unwrap().0);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = Secret::create_or_read(&path).unwrap_err().to_string();
        assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for content in ["", "0123", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65), &"0".repeat(100_000)] {
            std::fs::write(&path, content).unwrap();
            let error = Secret::read(&path).unwrap_err().to_string();
            assert!(error.contains("64 hexadecimal digits"), "{error}");
        }
        let error = Secret::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("no regular file"), "{error}");
    }

    #[test]
    fn a_proof_is_good_for_one_side_of_one_connection() {
        let secret = Secret::random().unwrap();
        let [dialer, listener, other] = [(); 3].map(|()| nonce().unwrap());
        let proof = secret.prove(Side::Dialer, &dialer, &listener, b"control");
        assert!(secret.accepts(&proof, Side::Dialer, &dialer, &listener, b"control"));
        assert!(!secret.accepts(&proof, Side::Listener, &dialer, &listener, b"control"), "reflected");
        assert!(!secret.accepts(&proof, Side::Dialer, &dialer, &other, b"control"), "replayed");
        assert!(!secret.accepts(&proof, Side::Dialer, &other, &listener, b"control"), "replayed");
        assert!(!secret.accepts(&proof, Side::Dialer, &listener, &dialer, b"control"), "swapped");
        assert!(!secret.accepts(&proof, Side::Dialer, &dialer, &listener, b"data"), "for another purpose");
        let stranger = Secret::random().unwrap();
        assert!(!stranger.accepts(&proof, Side::Dialer, &dialer, &listener, b"control"), "of another secret");
    }
}
