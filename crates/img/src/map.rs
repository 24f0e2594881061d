//! `map`: which layer of a chain has which bytes, and where.

use std::collections::HashMap;

use block::ByteRange;
use flow::{Holds, Layer, Layers, seam};
use graph::Demand;

use crate::failure::{Failure, Result};
use crate::flags;
use crate::given::Flag;
use crate::numbers::ANY;
use crate::session::{How, Session, Source};
use crate::verbs::{Call, Verb};

/// The verb.
pub(crate) const VERB: Verb = Verb {
    name: "map",
    about: "show where the bytes of an image lie",
    operands: "FILENAME",
    flags: FLAGS,
    signed: false,
    run: |call| Box::pin(run(call)),
};

const FLAGS: &[Flag] = &[
    flags::FORMAT,
    Flag::with('s', "start-offset", "OFFSET", "from here on"),
    Flag::with('l', "max-length", "LENGTH", "this many bytes"),
    flags::FORCE_SHARE,
    flags::OUTPUT,
    flags::OBJECT,
    flags::IMAGE_OPTS,
];

/// A run of bytes in the same place.
struct Run {
    range: ByteRange,
    layer: Layer,
}

impl Run {
    /// Takes `next` in where it goes on in the same place.
    fn join(&mut self, next: &Self) -> bool {
        let goes_on = match (&self.layer.at, &next.layer.at) {
            (Some((node, offset)), Some((other, there))) => {
                node == other && offset + self.range.len() == *there
            }
            (None, None) => true,
            _ => false,
        };
        let nothing = |run: &Self| matches!(run.layer.holds, Holds::Nothing | Holds::Behind);
        let alike = self.layer.holds == next.layer.holds || nothing(self) && nothing(next);
        let same = self.layer.depth == next.layer.depth && alike;
        if goes_on && same {
            self.range = ByteRange::between(self.range.start(), next.range.end());
        }
        goes_on && same
    }

    fn reads_zero(&self) -> bool {
        !matches!(self.layer.holds, Holds::Data | Holds::Special)
    }
}

/// How runs are told.
enum Words {
    Json {
        first: bool,
    },
    /// With what nodes are called, as far as they came up.
    Human(HashMap<String, String>),
}

async fn run(call: Call) -> Result<u8> {
    let Call { session, given } = call;
    session.add_objects(given.objects()).await?;
    let json = given.json()?;
    let start = given.bytes("start-offset", "start offset", ANY)?.unwrap_or(0);
    let most = given.bytes("max-length", "max length", ANY)?;
    let name = given.one_operand()?;
    let source = Source { name, format: given.value("format"), image_opts: given.has("image-opts") };
    let how = How { force_share: given.has("force-share"), ..How::READ };
    let image = session.open(source, how).await?;
    let size = image.size_in_sectors()?;
    let end = most.map_or(size, |most| start.saturating_add(most).min(size));
    let mut words = if json { Words::Json { first: true } } else { Words::Human(HashMap::new()) };
    words.begin(&session);
    let user = image.attach(Demand::LOOK)?;
    let told = tell(&session, &user.root, ByteRange::between(start.min(end), end), &mut words).await;
    user.end().await?;
    told?;
    if let Words::Json { .. } = words {
        session.listener.say("]\n");
    }
    image.close().await?;
    Ok(0)
}

async fn tell(session: &Session, root: &flow::Root, mut rest: ByteRange, words: &mut Words) -> Result<()> {
    let size = root.view().size();
    let (mut last, mut layers): (Option<Run>, _) = (None, Layers::default());
    while !rest.is_empty() {
        let inside = ByteRange::between(rest.start(), rest.end().min(size).max(rest.start()));
        let layer = match inside.is_empty() {
            true => filler(last.as_ref(), rest.len()),
            false => seam::layer(&root.view(), &mut layers, inside).await?,
        };
        let next = Run { range: rest.head(layer.len), layer };
        rest = rest.skip(next.range.len());
        if !last.as_mut().is_some_and(|last| last.join(&next))
            && let Some(run) = last.replace(next)
        {
            words.tell(session, &run)?;
        }
    }
    match last {
        Some(run) => words.tell(session, &run),
        None => words.tell_none(session),
    }
}

/// What fills the last sector of an image that ends within one: a hole of its file, which is longer for QEMU.
fn filler(last: Option<&Run>, len: u64) -> Layer {
    let at = last.and_then(|run| run.layer.at.clone().map(|(node, at)| (node, at + run.range.len())));
    Layer { depth: 0, holds: Holds::Hole, len, is_last: false, at }
}

impl Words {
    fn begin(&self, session: &Session) {
        session.listener.say(match self {
            Words::Json { .. } => "[",
            Words::Human(_) => "Offset          Length          Mapped to       File\n",
        });
    }

    /// An empty image has one empty run.
    fn tell_none(&mut self, session: &Session) -> Result<()> {
        if let Words::Json { .. } = self {
            session.listener.say(
                "{ \"start\": 0, \"length\": 0, \"depth\": 0, \"present\": false, \"zero\": false, \"data\": false, \"compressed\": false}",
            );
        }
        Ok(())
    }

    fn tell(&mut self, session: &Session, run: &Run) -> Result<()> {
        match self {
            Words::Json { first } => {
                if !std::mem::replace(first, false) {
                    session.listener.say(",\n");
                }
                session.listener.say(&json(run));
                Ok(())
            }
            Words::Human(names) => human(session, run, names),
        }
    }
}

fn json(run: &Run) -> String {
    let holds = run.layer.holds;
    let offset = run.layer.at.as_ref().map(|(_, offset)| format!(", \"offset\": {offset}"));
    format!(
        "{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}, \"compressed\": {}{}}}",
        run.range.start(),
        run.range.len(),
        run.layer.depth,
        !matches!(holds, Holds::Nothing | Holds::Behind),
        run.reads_zero(),
        !run.reads_zero() || holds == Holds::Room,
        holds == Holds::Special,
        offset.unwrap_or_default(),
    )
}

fn human(session: &Session, run: &Run, names: &mut HashMap<String, String>) -> Result<()> {
    if run.reads_zero() {
        return Ok(());
    }
    let Some((node, offset)) = &run.layer.at else {
        return Err(Failure::new("File contains external, encrypted or compressed clusters."));
    };
    if !names.contains_key(node) {
        names.insert(node.clone(), file_of(session, node)?);
    }
    let hex = |number: u64| if number == 0 { "0".to_owned() } else { format!("{number:#x}") };
    session.listener.say(&format!(
        "{:<16}{:<16}{:<16}{}\n",
        hex(run.range.start()),
        hex(run.range.len()),
        hex(*offset),
        names[node],
    ));
    Ok(())
}

/// What the node is called that has the bytes: a raw image has what it lies on.
fn file_of(session: &Session, node: &str) -> Result<String> {
    let nodes = session.engine.nodes();
    let find = |name: &str| nodes.iter().find(|info| info.name == name);
    let mut found = find(node);
    while let Some(raw) = found.filter(|info| info.driver == "raw") {
        found = raw.children.first().and_then(|(_, below)| find(below));
    }
    Ok(session.engine.full_name(found.map_or(node, |info| &info.name))?.text())
}
