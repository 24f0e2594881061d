//! What an image has to tell of itself: facts of its header and its bitmaps.

use flow::{Fact, Facts, ImageFacts, Storage, StoredBacking};
use qcow2::{BitmapEntry, Header, Version, cache, full_name};

use super::Qcow2;

/// What the header and the bitmaps of an image tell that was opened under the name `image`.
pub fn facts(header: &Header, bitmaps: &[BitmapEntry], image: &str) -> ImageFacts {
    let backing = header.backing.as_ref().map(|backing| StoredBacking {
        name: backing.name.clone(),
        full: full_name(&backing.name, image),
        format: backing.format.clone(),
    });
    ImageFacts {
        allocated: None,
        storage: Some(Storage {
            cluster_size: Some(1 << header.cluster_bits),
            is_dirty: header.features.dirty(),
        }),
        backing,
        snapshots: Vec::new(),
        specific: Some(specific(header, bitmaps)),
    }
}

fn specific(header: &Header, bitmaps: &[BitmapEntry]) -> Vec<(&'static str, Fact)> {
    let flag = |known: bool, set: bool| known.then_some(Fact::Flag(set));
    let version3 = header.version == Version::V3;
    let compat = if version3 { "1.1" } else { "0.10" };
    let data_file = header.data_file.as_ref();
    let facts = [
        ("compat", Some(Fact::Text(compat.to_owned()))),
        ("compression-type", Some(Fact::Text(header.compression.name().to_owned()))),
        ("lazy-refcounts", flag(version3, header.features.lazy_refcounts())),
        ("bitmaps", (!bitmaps.is_empty()).then(|| Fact::Each(bitmaps.iter().map(bitmap).collect()))),
        ("refcount-bits", Some(Fact::Number(header.refcount_table.bits.into()))),
        ("data-file", data_file.and_then(|file| file.name.clone()).map(Fact::Text)),
        ("data-file-raw", data_file.map(|file| Fact::Flag(file.raw))),
        ("corrupt", flag(version3, header.features.corrupt())),
        ("extended-l2", flag(version3, header.features.extended_l2())),
        ("cache-img-quota", quota(header).map(Fact::Number)),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name, fact?))).collect()
}

fn quota(header: &Header) -> Option<u64> {
    let text = cache::read(header).ok().flatten()?;
    cache::terms(text).ok()?.quota
}

fn bitmap(entry: &BitmapEntry) -> Vec<(&'static str, Fact)> {
    let flags = [("in-use", entry.is_in_use()), ("auto", entry.is_auto())];
    let flags = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    vec![
        ("flags", Fact::Words(flags)),
        ("name", Fact::Text(String::from_utf8_lossy(&entry.name).into_owned())),
        ("granularity", Fact::Number(entry.granularity())),
    ]
}

impl Facts for Qcow2 {
    fn facts(&self) -> ImageFacts {
        let header = self.image.known_header.load();
        let stored = facts(&header, &self.image.bitmaps.stored(), &self.image.name);
        ImageFacts { snapshots: self.image.listed().clone(), ..stored }
    }
}
