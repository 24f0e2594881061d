//! Checking and repairing an image: what refers to each cluster, compared with what its refcount says.
//!
//! [`Check`] does no I/O: [`Check::step`] says what is to be read or written next, and is told what was read with
//! [`Check::take`], in the order in which it asked. Reads are pieces of at most 1 MiB (a cluster, if that is more) and
//! independent of each other, so that many may be under way at once. It finds what `qemu-img check` finds, in the same
//! classes and numbers, and says so in its words; only the order of lines may differ.
//!
//! A table that several others share (L2 tables of snapshots) is read once and counted as often as it is used.
//!
//! Invariants:
//! * Memory: a byte for each cluster of the file, its refcount structures as they are stored, 32 bytes for each L2
//!   table; never more than 64 MiB at once. Whatever a table claims, nothing beyond the end of the file is read or
//!   kept.
//! * A repair changes nothing that a guest reads, and writes over nothing that is in use as something else. New
//!   refcount structures lie in clusters that nothing refers to, and are durable before one sector of the header points
//!   to them.
//! * At any write a crash leaves an image that is no worse: refcounts become exact in place, a cluster's before its
//!   `COPIED` flag, and what a crash leaves undone is done by the next repair.

mod amend;
mod compare;
mod disk_counts;
mod entries;
mod flags;
mod mend;
mod moved_table;
mod rebuild;
mod references;
mod runs;
mod scan;
mod structures;

pub use amend::ZeroCluster;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use block::{BlockError, ByteRange};

use crate::{BitmapEntry, Geometry, Header, Snapshot, Version, corrupt};
use disk_counts::DiskCounts;
use references::References;

/// Longest read in bytes, unless a cluster is longer.
const PIECE: u64 = 1 << 20;
/// Lines that are held back until what they are about is reached, and lines that nobody has taken yet.
const LINES_MAX: usize = 1 << 16;
/// Tables may lie in one another, but not so that more than this is read of them, beside some times the file.
const READ_MAX: u64 = 64 << 20;

/// What is mended of what is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Repair {
    /// Nothing: no write.
    #[default]
    Nothing,
    /// Clusters that are counted too often.
    Leaks,
    /// Everything that can be.
    All,
}

/// What was found, in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// What is wrong and was left so.
    pub corruptions: u64,
    /// Clusters that are counted more often than they are used, and were left so.
    pub leaks: u64,
    /// What could not be checked.
    pub check_errors: u64,
    /// What was wrong and is right now.
    pub corruptions_fixed: u64,
    /// Leaks that are gone.
    pub leaks_fixed: u64,
    /// Clusters of the virtual disk.
    pub total_clusters: u64,
    /// Those of them that hold data or have room kept for it.
    pub allocated_clusters: u64,
    /// Allocated ones that do not lie behind the one before in their L2 table.
    pub fragmented_clusters: u64,
    /// Compressed ones.
    pub compressed_clusters: u64,
    /// End of the last cluster in use, in bytes.
    pub image_end_offset: u64,
}

/// A write to the image file: where, and what.
pub type CheckWrite = (u64, Vec<u8>);

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// These ranges of the image file are to be read and handed to [`Check::take`], in this order.
    Read(Vec<ByteRange>),
    /// These are to be written; the file may grow.
    Write(Vec<CheckWrite>),
    /// All that was written is to be made durable.
    Barrier,
    /// There was something to be reckoned; others may have their turn.
    Again,
    /// It is done.
    Done,
}

/// A check under way.
pub struct Check {
    facts: Facts,
    repair: Repair,
    state: State,
    /// What the bytes are that are being read.
    asked: VecDeque<Piece>,
    asking: Vec<ByteRange>,
    /// Bytes that were asked for, in all.
    asked_bytes: u64,
    writes: Vec<CheckWrite>,
    found: Found,
    /// Of `found.corruptions`: those that no repair mends.
    lasting: u64,
    /// Of `found.corruptions`: those of refcounts that are too low or cannot count as high as they should.
    miscounted: u64,
    lines: Vec<String>,
    lines_left_out: u64,
    late: Vec<String>,
    late_left_out: u64,
    references: References,
    /// Clusters of the file; one more where something reaches beyond its end.
    clusters: u64,
    /// Ranges beyond the end that something refers to, with how often, and their clusters: nothing is put there.
    beyond: Vec<(ByteRange, u64)>,
    beyond_clusters: BTreeSet<u64>,
    /// Where the first of them begins that begins in a cluster of the file: from here on nothing there is free, though
    /// it is not counted.
    overlong_from: u64,
    disk: DiskCounts,
    /// Whether the refcount structures are past mending in place.
    rebuild: bool,
    snapshots: Vec<Snapshot>,
    snapshots_len: u64,
    snapshots_want: u64,
    /// Corruptions that a new snapshot table mends.
    snapshot_faults: u64,
    /// The new one, where refcounts are mended in place.
    moved_table: Option<moved_table::MovedTable>,
    /// Of `found.corruptions`: those of where tables are that are made anew elsewhere.
    table_corruptions: u64,
    bitmaps: Vec<BitmapEntry>,
    directory: Vec<u8>,
    l2_tables: Vec<L2Table>,
    l2_by_offset: HashMap<u64, u32>,
    /// How often a cluster is where an L2 table begins that is not aligned.
    astray: HashMap<u64, u64>,
    /// Clusters of tables that those refer to a part of, and nothing else but what takes them for tables.
    hit_tables: HashSet<u64>,
    /// Entries with room for zeros that is not aligned: they lose it.
    zeroings: Vec<Zeroing>,
    amending: amend::Amending,
}

/// What does not change while an image is checked.
struct Facts {
    /// The first sector, as it is; and as it is to be, once what it points to then is durable.
    sector: Vec<u8>,
    new_sector: Option<Vec<u8>>,
    is_durable: bool,
    header: Header,
    file_len: u64,
    /// Whether the file may become longer.
    grows: bool,
    /// Largest refcount.
    most: u64,
    /// Whether L2 entries have bitmaps.
    extended: bool,
    external: bool,
}

/// An L2 table, and who names it.
#[derive(Clone, Copy)]
struct L2Table {
    offset: u64,
    /// Entries of the active L1 table.
    active: u32,
    /// Those of them whose `COPIED` flag can be judged.
    judged: u32,
    /// Entries of snapshots' L1 tables.
    others: u32,
}

impl L2Table {
    /// How often it is used.
    fn times(self) -> u64 {
        u64::from(self.active + self.others)
    }
}

struct Zeroing {
    /// Where the entry is, and what it points to.
    at: u64,
    host: u64,
    /// Its L2 table, by number.
    table: usize,
    /// Corruptions that were counted for the entry before, and go with it.
    counted: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Snapshots,
    RefcountTable,
    RefcountBlocks,
    L1Tables,
    L2Tables,
    Bitmaps,
    BitmapTables,
    Blocks,
    Compare(u64),
    Mend(mend::Stage),
    Done,
}

/// What a piece of the file is.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Snapshots,
    RefcountTable,
    RefcountBlock(u64),
    /// Entries from `first` on of an L1 table that is used so often.
    L1 {
        first: u64,
        active: u32,
        others: u32,
    },
    /// So many L2 tables in a row, by number.
    L2 {
        first: usize,
        count: usize,
    },
    BitmapDirectory,
    BitmapTable,
    /// The active L1 table again, and its L2 tables: their flags.
    FlagsL1(u64),
    FlagsL2(usize),
}

impl Check {
    /// Begins to check the image whose first cluster is `first`, in a file of `file_len` bytes that may grow or not.
    /// Errors: those of [`Header::parse`].
    pub fn new(first: &[u8], file_len: u64, grows: bool, repair: Repair) -> Result<Self, BlockError> {
        let header = Header::parse(first)?;
        let bits = header.refcount_table.bits;
        let mut sector = first.to_vec();
        sector.resize(512, 0);
        let facts = Facts {
            sector,
            new_sector: None,
            is_durable: false,
            file_len,
            grows,
            most: u64::MAX >> (64 - bits),
            extended: header.features.extended_l2(),
            external: header.data_file.is_some(),
            header,
        };
        let clusters = file_len.div_ceil(facts.cluster());
        let disk = DiskCounts::new(facts.header.cluster_bits, bits);
        let mut check = Self::empty(facts, repair, clusters, disk);
        check.found.total_clusters =
            (check.facts.header.virtual_size / 512 * 512).div_ceil(check.facts.cluster());
        check.refer(0, check.facts.cluster(), 1);
        Ok(check)
    }

    fn empty(facts: Facts, repair: Repair, clusters: u64, disk: DiskCounts) -> Self {
        Self {
            facts,
            repair,
            state: State::Snapshots,
            asked: VecDeque::new(),
            asking: Vec::new(),
            asked_bytes: 0,
            writes: Vec::new(),
            found: Found::default(),
            lasting: 0,
            miscounted: 0,
            lines: Vec::new(),
            lines_left_out: 0,
            late: Vec::new(),
            late_left_out: 0,
            references: References::default(),
            clusters,
            beyond: Vec::new(),
            beyond_clusters: BTreeSet::new(),
            overlong_from: u64::MAX,
            disk,
            rebuild: false,
            snapshots: Vec::new(),
            snapshots_len: 0,
            snapshots_want: 1 << 16,
            snapshot_faults: 0,
            moved_table: None,
            table_corruptions: 0,
            bitmaps: Vec::new(),
            directory: Vec::new(),
            l2_tables: Vec::new(),
            astray: HashMap::new(),
            hit_tables: HashSet::new(),
            l2_by_offset: HashMap::new(),
            zeroings: Vec::new(),
            amending: amend::Amending::default(),
        }
    }

    /// What is to be done next. All that was asked for before has been done.
    ///
    /// Errors, all before anything was written: `Corrupt` where the snapshot table or the bitmap directory is broken,
    /// where tables lie in one another a hundred times, or where only [`Repair::All`] can mend the refcounts; `NoSpace`
    /// where new refcount structures have no room.
    pub fn step(&mut self) -> Result<Step, BlockError> {
        debug_assert!(self.asked.is_empty(), "something was asked for and not handed in");
        match self.state {
            State::Snapshots => self.ask_snapshots()?,
            State::RefcountTable => self.ask_refcount_table(),
            State::RefcountBlocks => self.ask_refcount_blocks(),
            State::L1Tables => self.ask_l1_tables()?,
            State::L2Tables => self.ask_l2_tables(),
            State::Bitmaps => self.ask_bitmaps()?,
            State::BitmapTables => self.ask_bitmap_tables()?,
            State::Blocks => self.check_blocks(),
            State::Compare(from) => self.compare(from),
            State::Mend(stage) => return self.mend(stage),
            State::Done => return Ok(Step::Done),
        }
        self.check_reads()?;
        Ok(self.asked_for())
    }

    /// Takes the bytes of the next range that was asked for. Errors: as of [`Check::step`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let Some(piece) = self.asked.pop_front() else { return Ok(()) };
        match piece {
            Piece::Snapshots => self.take_snapshots(bytes)?,
            Piece::RefcountTable => self.disk.table.extend(words(bytes)),
            Piece::RefcountBlock(offset) => self.disk.keep(offset, bytes),
            Piece::L1 { first, active, others } => self.take_l1(first, active, others, bytes),
            Piece::L2 { first, count } => self.take_l2_tables(first, count, bytes)?,
            Piece::BitmapDirectory => self.directory.extend(bytes),
            Piece::BitmapTable => self.take_bitmap_table(bytes)?,
            Piece::FlagsL1(first) => self.take_l1_flags(first, bytes),
            Piece::FlagsL2(number) => self.take_l2_flags(number, bytes),
        }
        Ok(())
    }

    /// What is to be written because of what was just taken, in any order.
    pub fn drain_writes(&mut self) -> Vec<CheckWrite> {
        std::mem::take(&mut self.writes)
    }

    /// What there is to be told since this was last asked, a line each, in the words of `qemu-img check`.
    ///
    /// Of more than 65536 at a time the rest is only counted.
    pub fn drain_lines(&mut self) -> Vec<String> {
        if self.lines_left_out > 0 {
            self.lines.push(format!("(and {} more lines)", std::mem::take(&mut self.lines_left_out)));
        }
        std::mem::take(&mut self.lines)
    }

    /// What was found so far.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Tables that do not lie in one another are read once, those of a broken image a few times more.
    pub(super) fn check_reads(&self) -> Result<(), BlockError> {
        let most = READ_MAX.saturating_add(self.facts.file_len.saturating_mul(4));
        if self.asked_bytes <= most {
            return Ok(());
        }
        let (asked, len) = (self.asked_bytes, self.facts.file_len);
        Err(corrupt(format!(
            "its tables claim {asked} bytes of a file of {len}: they lie in one another, and cannot be checked; \
             convert what can be read of it"
        )))
    }

    fn asked_for(&mut self) -> Step {
        match std::mem::take(&mut self.asking) {
            ranges if ranges.is_empty() => Step::Again,
            ranges => Step::Read(ranges),
        }
    }

    /// Asks for a range, as far as the file has it; answers whether it has any of it.
    fn ask(&mut self, piece: Piece, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.facts.file_len);
        if offset >= end {
            return false;
        }
        self.asked_bytes = self.asked_bytes.saturating_add(end - offset);
        self.asked.push_back(piece);
        self.asking.push(ByteRange::between(offset, end));
        true
    }

    /// Notes something that is wrong, and says what.
    fn corrupt(&mut self, times: u64, line: String) {
        self.found.corruptions += times;
        self.tell(times, line);
    }

    /// The same about what is told last.
    fn corrupt_late(&mut self, times: u64, line: String) {
        self.found.corruptions += times;
        match self.late.len() < LINES_MAX {
            true => self.late.push(line),
            false => self.late_left_out += 1,
        }
    }

    fn tell(&mut self, times: u64, line: String) {
        let room = LINES_MAX.saturating_sub(self.lines.len()) as u64;
        let (wanted, told) = (times.clamp(1, 16), times.clamp(1, 16).min(room));
        self.lines_left_out += wanted - told;
        for _ in 1..told {
            self.lines.push(line.clone());
        }
        if told > 0 {
            self.lines.push(line);
        }
    }

    fn tell_late(&mut self) {
        let late = std::mem::take(&mut self.late);
        self.lines.extend(late);
        if self.late_left_out > 0 {
            self.lines.push(format!("(and {} more of this kind)", std::mem::take(&mut self.late_left_out)));
        }
    }
}

impl Facts {
    fn cluster(&self) -> u64 {
        1 << self.header.cluster_bits
    }

    fn bits(&self) -> u32 {
        self.header.cluster_bits
    }

    /// Where what ends before is still counted: a cluster behind the end of the file, which is taken for whole sectors.
    fn reach(&self) -> u64 {
        self.file_len.next_multiple_of(512).saturating_add(self.cluster())
    }

    fn is_aligned(&self, offset: u64) -> bool {
        offset & (self.cluster() - 1) == 0
    }

    fn l1(&self) -> (u64, u64) {
        (Geometry::new(&self.header).l1_offset().0, self.header.l1_entries.into())
    }

    fn is_v3(&self) -> bool {
        self.header.version >= Version::V3
    }

    fn entry_bytes(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }
}

/// All words of a piece of a table; one that the end of the file cuts goes on with zeros.
fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (whole, rest) = bytes.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(last);
    whole.iter().copied().chain(last).map(u64::from_be_bytes)
}
