//! What a cache's file says, read without the driver: every table entry is checked, every byte that is there compared.
//!
//! Invariants that hold after any crash: whatever a table points to lies in the file, once, and is counted; what the
//! cache holds is the image's; without a link it holds all of it.

use qcow2::{Geometry, Header, RefcountBlock};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// What is in a sound cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether its header names the source.
    pub linked: bool,
    /// Clusters of data that it holds.
    pub held: u64,
    /// Clusters that are counted and that nothing points to.
    pub leaks: u64,
}

/// Looks at the whole file; the error is the first thing that is wrong.
pub fn check(file: &[u8], image: &[u8]) -> Result<Report, String> {
    let header = Header::needed(file).and_then(|needed| Header::parse(&file[..needed.min(file.len())]));
    let header = header.map_err(|error| error.to_string())?;
    if header.virtual_size != image.len() as u64 {
        return Err(format!("its size is {}", header.virtual_size));
    }
    let cluster = 1 << header.cluster_bits;
    let mut check = Check { file, image, header: &header, cluster, references: vec![0] };
    check.walk()
}

struct Check<'a> {
    file: &'a [u8],
    image: &'a [u8],
    header: &'a Header,
    cluster: u64,
    references: Vec<u64>,
}

impl Check<'_> {
    fn walk(&mut self) -> Result<Report, String> {
        let mut report = Report { linked: self.header.backing.is_some(), ..Report::default() };
        let l1 = Geometry::new(self.header).l1_range(self.file.len() as u64).map_err(|e| e.to_string())?;
        let table = self.header.refcount_table;
        self.refer("header", 0, self.cluster)?;
        self.refer("L1 table", l1.start(), l1.len())?;
        self.refer("refcount table", table.offset.0, u64::from(table.clusters) * self.cluster)?;
        let mut guest = 0;
        for entry in self.words(l1.start(), l1.len()) {
            report.held += self.l2_table(entry & OFFSET, guest, report.linked)?;
            guest += self.cluster / 8 * self.cluster;
        }
        let counts = self.counts()?;
        for (cluster, references) in self.references.iter().enumerate() {
            let count = counts.get(cluster).copied().unwrap_or(0);
            if *references > 1 || count < *references {
                return Err(format!("cluster {cluster}: {references} references, a refcount of {count}"));
            }
        }
        let referred = |at: usize| self.references.get(at).is_some_and(|references| *references > 0);
        report.leaks =
            counts.iter().enumerate().filter(|(at, count)| **count > 0 && !referred(*at)).count() as u64;
        Ok(report)
    }

    /// Answers how many clusters of data the table at `at` maps, which stands for the guest bytes from `guest` on.
    fn l2_table(&mut self, at: u64, guest: u64, linked: bool) -> Result<u64, String> {
        let entries = match at {
            0 => vec![0; (self.cluster / 8) as usize],
            _ => {
                self.refer("L2 table", at, self.cluster)?;
                self.words(at, self.cluster)
            }
        };
        let mut held = 0;
        for (entry, guest) in entries.into_iter().zip((guest..).step_by(self.cluster as usize)) {
            let bytes = self.image.get(guest as usize..).unwrap_or_default();
            let bytes = &bytes[..bytes.len().min(self.cluster as usize)];
            held += u64::from(self.entry(entry, guest, bytes, linked)?);
        }
        Ok(held)
    }

    /// Whether it is data.
    fn entry(&mut self, entry: u64, guest: u64, bytes: &[u8], linked: bool) -> Result<bool, String> {
        let (at, zeros) = (entry & OFFSET, bytes.iter().all(|byte| *byte == 0));
        if at != 0 {
            self.refer(
                &format!("cluster of guest offset {guest:#x}"),
                at,
                self.cluster.min(bytes.len() as u64),
            )?;
        }
        match (at, entry & 1 == 1) {
            (_, true) if zeros => Ok(false),
            (0, false) if zeros || linked => Ok(false),
            (0, false) => Err(format!("nothing is at {guest:#x}, and no source is named")),
            (_, true) => Err(format!("zeros are at {guest:#x} where the image has others")),
            (at, false) if self.file[at as usize..].starts_with(bytes) => Ok(true),
            (at, false) => Err(format!("the bytes of {guest:#x}, which are at {at:#x}, are not the image's")),
        }
    }

    fn refer(&mut self, what: &str, at: u64, len: u64) -> Result<(), String> {
        if !at.is_multiple_of(self.cluster) || at + len > self.file.len() as u64 {
            return Err(format!("{what} at {at:#x} is not in the file of {:#x} bytes", self.file.len()));
        }
        let (first, end) = (at / self.cluster, (at + len).div_ceil(self.cluster));
        self.references.resize(self.references.len().max(end as usize), 0);
        self.references[first as usize..end as usize].iter_mut().for_each(|count| *count += 1);
        Ok(())
    }

    /// The refcounts of all clusters.
    fn counts(&mut self) -> Result<Vec<u64>, String> {
        let table = self.header.refcount_table;
        let mut counts = Vec::new();
        for (number, block) in
            self.words(table.offset.0, u64::from(table.clusters) * self.cluster).into_iter().enumerate()
        {
            if block == 0 {
                continue;
            }
            self.refer("refcount block", block, self.cluster)?;
            let bytes = &self.file[block as usize..][..self.cluster as usize];
            let block = RefcountBlock::parse(bytes, table.bits).map_err(|e| e.to_string())?;
            counts.resize(number * block.len() as usize, 0);
            counts.extend((0..block.len()).map(|index| block.get(index)));
        }
        Ok(counts)
    }

    fn words(&self, at: u64, len: u64) -> Vec<u64> {
        let bytes = &self.file[at as usize..][..len as usize];
        bytes.as_chunks().0.iter().map(|word| u64::from_be_bytes(*word)).collect()
    }
}
