//! The cluster key: 32 random bytes that every node of a cluster has, and nobody else.
//!
//! The file holds one or two lines of 64 hexadecimal digits; `#` begins a comment. The first key signs, all
//! verify: two are live while a cluster changes from one to the other. What is signed or derived names the use it
//! is for, so that no MAC made for one purpose is good for another.
//!
//! Keys are wiped when dropped and never printed: `Debug` and errors show key ids at most.

mod file;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use nix::unistd::Uid;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

pub use file::KeyFile;

/// Length of a truncated MAC in bytes.
pub const MAC_LEN: usize = 16;

const KEY_LEN: usize = 32;
const MAX_KEYS: usize = 2;
/// Far more than two keys and their comments need.
const FILE_LIMIT: u64 = 64 << 10;
const DATAGRAM_LABEL: &str = "om datagram";

type HmacSha256 = Hmac<Sha256>;

/// Names a key without telling anything of it. 0 stands for "no key".
pub type KeyId = u32;

/// Why there is no key to use. Nothing has been taken from the file.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file exists and this user may not read it.
    #[error("{}: cannot be read by uid {uid}; give the file to the daemon's user, with mode 0600", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who tried.
        uid: u32,
    },
    /// Others can read the file: the key must be taken for known.
    #[error("{}: mode {mode:04o} lets others read the cluster key; chmod 0600 it, and make a new key", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line is neither a key nor a comment. The line itself is not shown: it may be nearly a key.
    #[error("{}: line {line} is not a key of 64 hexadecimal digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
    },
    /// No key, more than two, or one twice.
    #[error("{}: holds {found} different keys; one is needed, two are allowed", path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// Anything else the kernel said.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
}

/// The live keys of this node's cluster; none on a node that only monitors.
#[derive(Clone, Default)]
pub struct ClusterKeys {
    keys: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: KeyId,
    secret: Zeroizing<[u8; KEY_LEN]>,
    /// HMAC with the datagram key taken in already, which halves the work for each datagram.
    datagram: HmacSha256,
}

impl ClusterKeys {
    /// No key: nothing is signed, and nothing can be verified.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads the key file. A file that is not there means that this node has no key; one that cannot be used is an
    /// error, never the same as none.
    ///
    /// # Errors
    /// [`KeyError`] says what to do.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let named = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => {
                KeyError::Unreadable { path: path.to_owned(), uid: Uid::effective().as_raw() }
            }
            _ => KeyError::Io { path: path.to_owned(), source },
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::none()),
            other => other.map_err(named)?,
        };
        let metadata = file.metadata().map_err(named)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::TooOpen { path: path.to_owned(), mode });
        }
        // In one piece of its final size, so that growing leaves no copy behind.
        let size = usize::try_from(metadata.size().min(FILE_LIMIT)).unwrap_or_default();
        let mut text = Zeroizing::new(String::with_capacity(size + 1));
        file.take(FILE_LIMIT).read_to_string(&mut text).map_err(named)?;
        Self::parse(&text, path)
    }

    /// Reads the keys from the text of a key file; `path` is for errors only.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] and [`KeyError::Count`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, KeyError> {
        let mut keys: Vec<Key> = Vec::with_capacity(MAX_KEYS + 1);
        let mut found = 0;
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let secret = decode_hex(line)
                .ok_or_else(|| KeyError::Malformed { path: path.to_owned(), line: index + 1 })?;
            let key = Key::new(secret);
            found += 1;
            // Two keys with one id could not be told apart, and are the same key but for one chance in 2³².
            if keys.len() < MAX_KEYS && !keys.iter().any(|other| other.id == key.id) {
                keys.push(key);
            }
        }
        if keys.is_empty() || found != keys.len() {
            let found = if keys.is_empty() || found > MAX_KEYS { found } else { keys.len() };
            return Err(KeyError::Count { path: path.to_owned(), found });
        }
        Ok(Self { keys })
    }

    /// Keys for tests and benchmarks, made from one byte each.
    #[must_use]
    pub fn for_tests(seeds: &[u8]) -> Self {
        Self { keys: seeds.iter().map(|seed| Key::new(Zeroizing::new([*seed; KEY_LEN]))).collect() }
    }

    /// Whether there is no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The id of the key that signs; 0 if there is none.
    #[must_use]
    pub fn signing_id(&self) -> KeyId {
        self.keys.first().map_or(0, |key| key.id)
    }

    /// Whether this is the id of a live key.
    #[must_use]
    pub fn knows(&self, id: KeyId) -> bool {
        self.keys.iter().any(|key| key.id == id)
    }

    /// The MAC of a datagram's bytes, part after part, by the key that signs; zeros if there is none.
    #[must_use]
    pub fn sign_datagram(&self, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        if let Some(key) = self.keys.first() {
            let mut hmac = key.datagram.clone();
            parts.iter().for_each(|part| hmac.update(part));
            mac.copy_from_slice(&hmac.finalize().into_bytes()[..MAC_LEN]);
        }
        mac
    }

    /// Whether `mac` is the MAC of these bytes by the live key with this id. Takes the same time wherever they differ.
    #[must_use]
    pub fn verify_datagram(&self, id: KeyId, parts: &[&[u8]], mac: &[u8; MAC_LEN]) -> bool {
        let Some(key) = self.keys.iter().find(|key| key.id == id) else { return false };
        let mut hmac = key.datagram.clone();
        parts.iter().for_each(|part| hmac.update(part));
        hmac.verify_truncated_left(mac).is_ok()
    }

    /// The MAC of these bytes for another use, which `label` names, by the key that signs; zeros if there is none.
    #[must_use]
    pub fn sign(&self, label: &str, parts: &[&[u8]]) -> [u8; MAC_LEN] {
        let mut mac = [0; MAC_LEN];
        if let Some(key) = self.keys.first() {
            let hmac = mac_of(&derive(&key.secret, label), parts);
            mac.copy_from_slice(&hmac.finalize().into_bytes()[..MAC_LEN]);
        }
        mac
    }

    /// Whether `mac` is what [`Self::sign`] makes of these bytes with the live key that has this id.
    #[must_use]
    pub fn verify(&self, label: &str, id: KeyId, parts: &[&[u8]], mac: &[u8; MAC_LEN]) -> bool {
        self.keys
            .iter()
            .find(|key| key.id == id)
            .is_some_and(|key| mac_of(&derive(&key.secret, label), parts).verify_truncated_left(mac).is_ok())
    }

    /// A secret for another use, one for each live key, the signing one first. `label` names the use.
    #[must_use]
    pub fn derive(&self, label: &str) -> Vec<(KeyId, Zeroizing<[u8; KEY_LEN]>)> {
        self.keys.iter().map(|key| (key.id, derive(&key.secret, label))).collect()
    }
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| format!("{:08x}", key.id));
        f.debug_list().entries(ids).finish()
    }
}

impl Key {
    fn new(secret: Zeroizing<[u8; KEY_LEN]>) -> Self {
        let digest = Sha256::new().chain_update("om key id").chain_update(secret.as_slice()).finalize();
        let id = KeyId::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1);
        let datagram = hmac_with(derive(&secret, DATAGRAM_LABEL).as_slice());
        Self { id, secret, datagram }
    }
}

/// Bytes that nobody can guess, from the system's random generator.
///
/// # Errors
/// The kernel's; every Linux host has one.
pub fn random<const LEN: usize>() -> io::Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn derive(secret: &[u8; KEY_LEN], label: &str) -> Zeroizing<[u8; KEY_LEN]> {
    let mut hmac = hmac_with(secret);
    hmac.update(label.as_bytes());
    let mut derived = hmac.finalize().into_bytes();
    let mut out = Zeroizing::new([0; KEY_LEN]);
    out.copy_from_slice(&derived);
    derived.zeroize();
    out
}

fn mac_of(secret: &[u8; KEY_LEN], parts: &[&[u8]]) -> HmacSha256 {
    let mut hmac = hmac_with(secret);
    parts.iter().for_each(|part| hmac.update(part));
    hmac
}

#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
fn hmac_with(key: &[u8]) -> HmacSha256 {
    HmacSha256::new_from_slice(key).expect("HMAC takes a key of any length")
}

fn decode_hex(text: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    if text.len() != 2 * KEY_LEN || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = Zeroizing::new([0; KEY_LEN]);
    for (byte, digits) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const NEW: &str = "ff0102030405060708090A0B0C0D0E0F101112131415161718191a1b1c1d1e1f";

    fn parse(text: &str) -> Result<ClusterKeys, KeyError> {
        ClusterKeys::parse(text, Path::new("key"))
    }

    #[test]
    fn the_first_key_signs_and_all_verify() {
        let old = parse(OLD).unwrap();
        let both = parse(&format!("# new\n{NEW}\n\n{OLD} # old\n")).unwrap();
        let new = parse(NEW).unwrap();
        assert_eq!(both.signing_id(), new.signing_id());
        assert!(both.verify_datagram(old.signing_id(), &[b"abc"], &old.sign_datagram(&[b"abc"])));
        assert!(new.verify_datagram(both.signing_id(), &[b"abc"], &both.sign_datagram(&[b"abc"])));
        assert!(!old.verify_datagram(both.signing_id(), &[b"abc"], &both.sign_datagram(&[b"abc"])));
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let keys = parse(OLD).unwrap();
        let mac = keys.sign_datagram(&[b"abc"]);
        assert!(keys.verify_datagram(keys.signing_id(), &[b"abc"], &mac));
        assert!(!keys.verify_datagram(keys.signing_id(), &[b"abd"], &mac));
        let mut other = mac;
        other[15] ^= 1;
        assert!(!keys.verify_datagram(keys.signing_id(), &[b"abc"], &other));
    }

    #[test]
    fn without_a_key_nothing_is_verified_and_the_mac_is_zero() {
        let none = ClusterKeys::none();
        assert_eq!((none.signing_id(), none.sign_datagram(&[b"abc"])), (0, [0; MAC_LEN]));
        assert!(!none.verify_datagram(0, &[b"abc"], &[0; MAC_LEN]));
        assert!(!parse(OLD).unwrap().verify_datagram(0, &[b"abc"], &[0; MAC_LEN]));
    }

    #[test]
    fn a_key_for_one_use_is_no_key_for_another() {
        let keys = parse(OLD).unwrap();
        assert_ne!(keys.derive("one"), keys.derive("two"));
        assert_eq!(keys.derive("one")[0].0, keys.signing_id());
        let mac = keys.sign("one", &[b"a", b"bc"]);
        assert!(keys.verify("one", keys.signing_id(), &[b"abc"], &mac));
        assert!(!keys.verify("two", keys.signing_id(), &[b"abc"], &mac));
        assert!(!keys.verify("one", keys.signing_id() ^ 1, &[b"abc"], &mac));
    }

    #[test]
    fn malformed_files_are_refused_by_line_and_never_quoted() {
        for (text, line) in
            [(&OLD[1..], 1), ("\n# x\nzz", 3), (&format!("{OLD}0"), 1), (&format!("{OLD} {NEW}"), 1)]
        {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { line: l, .. } if l == line), "{error}");
            assert!(!error.to_string().contains("0102"), "{error}");
        }
        for text in
            ["", "# nothing\n", &format!("{OLD}\n{OLD}"), &format!("{OLD}\n{NEW}\n{}", "ab".repeat(32))]
        {
            assert!(matches!(parse(text), Err(KeyError::Count { .. })), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        let shown = format!("{:?}", parse(OLD).unwrap());
        assert!(shown.len() < 16 && !shown.contains("0001"), "{shown}");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        assert!(ClusterKeys::load(&path).unwrap().is_empty());
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        fs::write(&path, format!("{OLD}\n")).unwrap();
        assert!(!ClusterKeys::load(&path).unwrap().is_empty());
        for mode in [0o640, 0o604, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = ClusterKeys::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::TooOpen { .. }), "{error}");
        }
    }
}
