//! Names of files, and the two that matter here: the image of a hibernated system, and the stores of shadow copies.

use super::record::REFERENCE;
use super::volume::{self, Volume, file};
use super::{Stop, geometry};
use crate::guest::Kept;
use crate::guest::device::Fields;
use crate::reason;

/// The name of indexes of names, in 16-bit letters.
pub(crate) const I30: &[u8] = b"$\0I\x003\x000\0";

const HIBERNATION: &str = "hiberfil.sys";
/// Behind the name of each shadow copy's own file.
const SNAPSHOT_SUFFIX: &str = "{3808876b-c176-4e48-b7ae-04046e6cc752}";
/// How the image begins while it is in force, in the spellings of all versions: written, being resumed from, and
/// resumed from without the header having been cleared.
const HIBERNATED: [&[u8; 4]; 6] = [b"hibr", b"HIBR", b"rstr", b"RSTR", b"wake", b"WAKE"];
/// A shorter file is how Windows marks other volumes as in use by a hibernated system (ntfs-3g, `volume.c`).
const HEADER_BYTES: usize = 4096;

/// A name with its directory: the value of `$FILE_NAME`, and the key of a directory's index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileName<'a> {
    parent: u64,
    letters: &'a [u8],
}

impl<'a> FileName<'a> {
    /// `None` when the name does not lie inside its value.
    pub(crate) fn parse(value: &'a [u8]) -> Option<Self> {
        if value.len() < 66 {
            return None;
        }
        let letters = value.get(66..66 + 2 * usize::from(value[64]))?;
        Some(Self { parent: value.u64_at(0) & REFERENCE, letters })
    }

    /// Whether the letters are those of `ascii`, in any case.
    fn is(letters: &[u8], ascii: &str) -> bool {
        letters.len() == 2 * ascii.len()
            && letters
                .chunks_exact(2)
                .zip(ascii.bytes())
                .all(|(letter, byte)| letter[1] == 0 && letter[0].eq_ignore_ascii_case(&byte))
    }

    /// Whether a hibernated system's image has this name.
    pub(crate) fn is_hibernation(&self) -> bool {
        self.parent == file::ROOT && Self::is(self.letters, HIBERNATION)
    }

    /// The reason to keep all when this is the file of a shadow copy. The catalogue of the copies, which stays when
    /// they go, has the suffix alone.
    pub(crate) fn check_snapshot(&self) -> Result<(), Stop> {
        let start = self.letters.len().checked_sub(2 * SNAPSHOT_SUFFIX.len()).filter(|start| *start > 0);
        match start {
            Some(start) if Self::is(&self.letters[start..], SNAPSHOT_SUFFIX) => Err(volume::snapshots()),
            _ => Ok(()),
        }
    }
}

/// The reason to keep all when record `number`, which has the name of a hibernated system's image, is one in force.
pub(crate) fn check_hibernation(volume: &Volume<'_>, number: u64) -> Result<(), Stop> {
    let data = volume.open_data(number)?;
    let mut header = [0; HEADER_BYTES];
    let hibernated = if data.data_bytes() < header.len() as u64 {
        true
    } else {
        data.read_at(&volume.device, &mut header, 0)?;
        HIBERNATED.iter().any(|mark| header.starts_with(&mark[..]))
    };
    if hibernated {
        let message = "a hibernated system uses the volume";
        return Err(Stop::Kept(Kept::whole(reason::KEPT_HIBERNATED, message)));
    }
    Ok(())
}

/// Records with the name of a hibernated system's image: the directory and the files tell of them, each by itself.
#[derive(Debug, Default)]
pub(crate) struct Candidates(Vec<u64>);

impl Candidates {
    /// There is one such file. More than a few mean that the names are not what they seem.
    const MAX: usize = 16;

    /// Remembers a record.
    pub(crate) fn add(&mut self, number: u64) -> Result<(), Stop> {
        if self.0.contains(&number) {
            return Ok(());
        }
        if self.0.len() == Self::MAX {
            return Err(geometry("many files have the name of a hibernated system's image"));
        }
        self.0.push(number);
        Ok(())
    }

    /// The reason to keep all when one of them is in force.
    pub(crate) fn check(&self, volume: &Volume<'_>) -> Result<(), Stop> {
        self.0.iter().try_for_each(|number| check_hibernation(volume, *number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(parent: u64, name: &str) -> Vec<u8> {
        let letters: Vec<u16> = name.encode_utf16().collect();
        let mut value = vec![0; 66];
        value[..8].copy_from_slice(&(parent | 7 << 48).to_le_bytes());
        value[64] = letters.len() as u8;
        value.extend(letters.iter().flat_map(|letter| letter.to_le_bytes()));
        value
    }

    #[test]
    fn names_that_matter() {
        let hibernation =
            |parent, name| FileName::parse(&value(parent, name)).is_some_and(|name| name.is_hibernation());
        assert!(hibernation(5, "hiberfil.sys") && hibernation(5, "HiberFil.SYS"));
        assert!(
            !hibernation(6, "hiberfil.sys")
                && !hibernation(5, "hiberfil.sy")
                && !hibernation(5, "hiberfil.ſys")
        );
        let snapshot =
            |name: &str| FileName::parse(&value(36, name)).is_none_or(|name| name.check_snapshot().is_err());
        assert!(snapshot("{673e7cc9-3a5c-11e9-b813-901b0e4d36dd}{3808876b-C176-4e48-b7ae-04046e6cc752}"));
        assert!(!snapshot(SNAPSHOT_SUFFIX) && !snapshot("x") && !snapshot(""));
    }

    #[test]
    fn a_name_outside_its_value() {
        let mut long = value(5, "abc");
        assert!(FileName::parse(&long).is_some());
        long[64] = 4;
        assert!(FileName::parse(&long).is_none() && FileName::parse(&long[..65]).is_none());
    }
}
