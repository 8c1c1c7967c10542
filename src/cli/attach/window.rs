//! A session in a terminal's window: owns the terminal, the text that is typed and what is in view.

use std::{
    io::{self, Stdout, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ratatui::{
    Frame, Terminal,
    backend::{Backend, CrosstermBackend},
    layout::Rect,
};

use super::{
    action::Action,
    cards::Cards,
    editor::{self, Editor, Key, View},
    entry::Change,
    model::Model,
    said::{About, Said},
    screen::{DrawnCard, Screen, Status},
    theme::Theme,
};
use crate::{
    base::Now,
    cli::{
        text::{GIVE_SIZE, NO_SIZE, clean_line},
        tty::{Taken, is_in_front},
    },
};

/// The pause between two frames, in milliseconds.
const FRAME_MS: u64 = 33;
/// Characters of an answer to a key; a row of most terminals has fewer.
const SAID_CHARS: usize = 240;
/// How long one picture of the spinner stands, in milliseconds.
const SPIN_MS: u64 = 100;
/// How soon a job in the background looks whether it was brought to the front, in milliseconds.
const LOOK_MS: u64 = 250;

pub(super) struct Window {
    taken: Option<Taken>,
    terminal: Terminal<CrosstermBackend<Stdout>>,
    screen: Screen,
    editor: Editor,
    /// The card as it was drawn last.
    card: Option<DrawnCard>,
    /// What the last line or key was answered with: it stands in the status row until the next key, or until it gives way.
    said: Option<Said>,
    /// Something changed since the last frame.
    stale: bool,
    drawn_ms: u64,
    /// The empty area of which it stands on the terminal that nothing can be drawn there.
    told_empty: Option<Rect>,
    /// The program was stopped and goes on.
    hidden: Arc<AtomicBool>,
}

impl Window {
    pub(super) fn open(theme: Theme) -> io::Result<Self> {
        let taken = Taken::take()?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        Ok(Self {
            taken: Some(taken),
            terminal,
            screen: Screen::new(theme),
            editor: Editor::default(),
            card: None,
            said: None,
            stale: true,
            drawn_ms: 0,
            told_empty: None,
            hidden: Arc::default(),
        })
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        self.stale |= !changes.is_empty();
        changes.into_iter().for_each(|change| self.screen.transcript.apply(change));
    }

    pub(super) fn earlier(&mut self, changes: Vec<Change>, has_more: bool) {
        self.stale = true;
        self.screen.transcript.prepend(changes, has_more);
    }

    pub(super) fn is_full(&self) -> bool {
        self.screen.transcript.is_full()
    }

    /// The next frame is to be drawn.
    pub(super) fn stale(&mut self) {
        self.stale = true;
    }

    pub(super) fn resized(&mut self) {
        (self.stale, self.said) = (true, None);
    }

    fn is_ours(&self) -> bool {
        self.taken.as_ref().is_some_and(Taken::is_ours)
    }

    /// Draws a frame if something has changed and the last one is old enough. The clock is read again when it stands on
    /// the terminal: an answer is about what has been there for a while.
    pub(super) fn show(
        &mut self,
        model: &mut Model,
        turns: bool,
        offline: Option<u64>,
        now: Now,
        clock_ms: &mut dyn FnMut() -> u64,
    ) -> Result<(), String> {
        self.give_way(model, offline, now);
        let due = self.stale || turns && now.mono_ms >= self.drawn_ms + SPIN_MS;
        if !due || !self.is_ours() || (self.drawn_ms > 0 && now.mono_ms < self.drawn_ms + FRAME_MS) {
            return Ok(());
        }
        let mut status = status(model, turns, offline, now, self.editor.is_empty());
        status.said = self.said.as_ref().map(|said| said.text().to_owned());
        let Self { terminal, screen, editor, card, .. } = self;
        let draw = |frame: &mut Frame<'_>, cards: &Cards| screen.draw(frame, cards, editor, &status);
        let unwritable = |error| format!("the terminal cannot be written: {error}");
        let drawn_ms = drawn(terminal, card, &mut model.cards, draw, clock_ms).map_err(unwritable)?;
        self.tell_empty().map_err(unwritable)?;
        self.stale = false;
        self.drawn_ms = drawn_ms.max(1);
        if let Some(said) = &mut self.said {
            said.drawn(drawn_ms);
        }
        Ok(())
    }

    /// Says in a plain line that the terminal has no size, once until something takes that line away.
    fn tell_empty(&mut self) -> io::Result<()> {
        let area = Some(self.terminal.current_buffer_mut().area).filter(|area| area.is_empty());
        if area.is_some() && area != self.told_empty {
            let terminal = self.terminal.backend_mut();
            write!(terminal, "\r\n{NO_SIZE}, so the session cannot be shown, and what is typed is sent unseen. ")?;
            write!(terminal, "{GIVE_SIZE}; Ctrl-] leaves\r\n")?;
            Write::flush(terminal)?;
        }
        self.told_empty = area;
        Ok(())
    }

    fn repaint(&mut self) -> io::Result<()> {
        self.told_empty = None;
        repaint(&mut self.terminal)
    }

    /// Takes back what was said, if its time is over.
    fn give_way(&mut self, model: &Model, offline: Option<u64>, now: Now) {
        let gives_way = |said: &mut Said| said.gives_way(&About::of(model, offline.is_some()), now.mono_ms);
        if self.said.as_mut().is_some_and(gives_way) {
            (self.stale, self.said) = (true, None);
        }
    }

    pub(super) fn next_frame_ms(&self, turns: bool, now_ms: u64) -> Option<u64> {
        // Nothing is drawn while the terminal is another's. A shell need not tell when that ends: a job that runs already
        // gets no signal by `fg`.
        if !self.is_ours() {
            return Some(now_ms + LOOK_MS);
        }
        if self.stale {
            return Some((self.drawn_ms + FRAME_MS).max(now_ms));
        }
        let turning = turns.then(|| self.drawn_ms + SPIN_MS);
        [turning, self.said.as_ref().and_then(Said::until_ms)].into_iter().flatten().min()
    }

    /// A line or a key was answered with this.
    pub(super) fn say(&mut self, text: &str, about: About) {
        self.stale = true;
        self.said = Some(Said::new(clean_line(text, SAID_CHARS), about));
    }

    pub(super) fn key(&mut self, key: Key, at_ms: u64, busy: bool) -> Option<Action> {
        self.stale = true;
        self.said = None;
        match self.editor.key(key, at_ms, busy) {
            editor::Action::Draw => None,
            editor::Action::Submit { text, began_ms } => {
                self.screen.transcript.show_end();
                Some(Action::Line { text, began_ms })
            }
            editor::Action::Interrupt => Some(Action::Interrupt),
            editor::Action::Detach => Some(Action::Leave),
            editor::Action::NoRoom(bytes) => Some(Action::NoRoom(bytes)),
            editor::Action::View(view) => self.scroll(view),
            editor::Action::Redraw => self.repaint().err().map(|error| Action::Failed(error.to_string())),
            editor::Action::Suspend => self.stop(),
        }
    }

    pub(super) fn draft(&self) -> Option<String> {
        (!self.editor.is_empty()).then(|| self.editor.text())
    }

    pub(super) fn put_back(&mut self, text: &str) {
        self.stale = true;
        self.editor.put_back(text);
    }

    fn scroll(&mut self, view: View) -> Option<Action> {
        let at_the_beginning = self.screen.scroll(view, self.card.as_ref());
        at_the_beginning.then_some(Action::Earlier)
    }

    /// Set when the program goes on after it was stopped.
    pub(super) fn hidden(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.hidden)
    }

    pub(super) fn was_hidden(&mut self) -> bool {
        let was_hidden = self.hidden.swap(false, Ordering::SeqCst);
        self.stale |= was_hidden;
        was_hidden
    }

    /// Gives the terminal back and stops the program. What follows is told when it goes on.
    pub(super) fn stop(&mut self) -> Option<Action> {
        self.taken.as_ref()?.stop().err().map(|error| Action::Failed(error.to_string()))
    }

    pub(super) fn is_to_front(&self) -> bool {
        self.taken.is_some() && !self.is_ours() && is_in_front()
    }

    /// The program goes on. The terminal need not have been given back before the stop, so all of it is set and drawn
    /// anew.
    pub(super) fn go_on(&mut self) -> Option<Action> {
        let taken = self.taken.as_ref()?.again();
        self.stale = true;
        let again = taken.and_then(|()| if self.is_ours() { self.repaint() } else { Ok(()) });
        again.err().map(|error| Action::Failed(error.to_string()))
    }

    /// Gives the terminal back. Gives the last lines, which are to stay on it.
    pub(super) fn close(&mut self) -> String {
        let size = self.terminal.size().unwrap_or_default();
        let rest = self.screen.transcript.last_lines(size.width, usize::from(size.height.saturating_sub(3)));
        self.taken = None;
        rest
    }
}

/// Draws a frame, and notes which card stands on the terminal, and since when: the clock is read when the terminal has
/// taken all of it, which a slow one does late. Gives that time.
fn drawn<W: Write>(
    terminal: &mut Terminal<CrosstermBackend<W>>,
    card: &mut Option<DrawnCard>,
    cards: &mut Cards,
    mut draw: impl FnMut(&mut Frame<'_>, &Cards) -> Option<DrawnCard>,
    clock_ms: &mut dyn FnMut() -> u64,
) -> io::Result<u64> {
    // Whatever this terminal has drawn otherwise than it was meant is not to stand in a card. One that nothing can be drawn
    // on keeps the line that says so.
    let is_new = cards.shown().is_some_and(|new| card.as_ref().is_none_or(|old| old.number != new.number));
    if is_new && !terminal.current_buffer_mut().area.is_empty() {
        repaint(terminal)?;
    }
    terminal.draw(|frame| *card = draw(frame, cards))?;
    let now_ms = clock_ms();
    cards.drawn(card.as_ref().map(|card| (card.number, card.to_the_end)), now_ms);
    Ok(now_ms)
}

/// Has the next frame draw every cell. The library's own `clear` asks the terminal where its cursor is, and the answer
/// would come to the thread that reads keys.
fn repaint<W: Write>(terminal: &mut Terminal<CrosstermBackend<W>>) -> io::Result<()> {
    terminal.backend_mut().clear()?;
    // What stood there is forgotten, so that every cell differs.
    terminal.swap_buffers();
    Ok(())
}

/// What the keys do now: [`Editor::key`] is told the same of the turn.
fn keys(model: &Model, offline: Option<u64>, is_empty: bool) -> &'static str {
    match (offline.is_none() && model.interrupts(), is_empty) {
        (true, _) => "Ctrl-C interrupts",
        (false, false) => "Ctrl-C clears the line",
        (false, true) if model.is_over() => "Ctrl-] leaves",
        (false, true) => "Ctrl-] leaves · /help",
    }
}

fn status(model: &Model, turns: bool, offline: Option<u64>, now: Now, is_empty: bool) -> Status {
    // Until the session says since when, nothing has passed.
    let since = if model.since() == 0 { now.unix_ms } else { model.since() };
    let seconds = now.unix_ms.saturating_sub(since) / 1_000;
    let sent = model.cards.on_their_way();
    let waiting = model.cards.len() - sent;
    let state = match (offline, model.state()) {
        (Some(at_ms), _) => {
            let answers = match sent {
                0 => String::new(),
                1 => ", your answer waits".into(),
                more => format!(", {more} answers of yours wait"),
            };
            match at_ms.saturating_sub(now.mono_ms).div_ceil(1_000) {
                0 => format!("offline{answers}: connecting"),
                left => format!("offline{answers}: connecting again in {left} s"),
            }
        }
        (None, "waiting") if waiting == 0 && sent == 1 => "your answer is on its way".into(),
        (None, "waiting") if waiting == 0 && sent > 1 => format!("your {sent} answers are on their way"),
        (None, "waiting") if waiting == 1 => "a request waits for an answer".into(),
        (None, "waiting") => format!("{waiting} requests wait for an answer"),
        (None, "busy") => format!("working {seconds} s"),
        (None, "starting") => format!("starting {seconds} s"),
        (None, state @ ("retrying" | "stuck")) => format!("{state} {seconds} s"),
        (None, state) => clean_line(state, 16),
    };
    let devices = Some(model.devices()).filter(|devices| *devices > 1).map(|devices| format!("{devices} devices"));
    let place = [Some(model.title().to_owned()), model.unusual_mode(), devices];
    Status {
        turns,
        tick: (now.mono_ms / SPIN_MS) as usize,
        state,
        keys: keys(model, offline, is_empty).into(),
        place: place.into_iter().flatten().filter(|part| !part.is_empty()).collect(),
        said: None,
        alarm: offline.is_some() || matches!(model.state(), "stuck" | "failed"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use ratatui::{TerminalOptions, Viewport, layout::Rect};
    use serde_json::{Value, json};

    use super::{
        super::{cards::Meaning, people::Me},
        *,
    };
    use crate::{
        client::{Attachment, Snapshot},
        relay::card::VISIBLE_MS,
    };

    /// A terminal that takes its time for each write.
    struct Slow<'a> {
        clock_ms: &'a Cell<u64>,
        write_ms: u64,
        written: &'a RefCell<Vec<u8>>,
    }

    impl Write for Slow<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.clock_ms.set(self.clock_ms.get() + self.write_ms);
            self.written.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn asks(model: &mut Model, request: &str) {
        let event = json!({
            "type": "event", "session": "s", "epoch": "e", "offset": 0, "kind": "permission", "request": request,
            "tool": "Bash", "input": {"command": "ls"},
        });
        model.incoming(&crate::client::Incoming::parse(&event.to_string()).expect("an event"), 0);
    }

    #[test]
    fn a_card_is_drawn_anew_whole_and_counts_from_when_a_slow_terminal_has_taken_it() {
        let (clock_ms, written) = (Cell::new(0), RefCell::new(Vec::new()));
        let writer = Slow { clock_ms: &clock_ms, write_ms: 2 * VISIBLE_MS, written: &written };
        let viewport = Viewport::Fixed(Rect::new(0, 0, 80, 24));
        let options = TerminalOptions { viewport };
        let mut terminal = Terminal::with_options(CrosstermBackend::new(writer), options).expect("a terminal");
        let (mut screen, editor) = (Screen::new(Theme { color: false }), Editor::default());
        let (mut model, mut card) = (session("approve", "waiting", &["running"]), None);
        let is_repainted = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("\x1b[2J");
        for request in ["one", "two"] {
            asks(&mut model, request);
            let row = status(&model, false, None, Now { mono_ms: 0, unix_ms: 0 }, true);
            let mut frame = |model: &mut Model| {
                written.borrow_mut().clear();
                let draw = |frame: &mut Frame<'_>, cards: &Cards| screen.draw(frame, cards, &editor, &row);
                drawn(&mut terminal, &mut card, &mut model.cards, draw, &mut || clock_ms.get()).expect("it is drawn");
            };
            let before_ms = clock_ms.get();
            frame(&mut model);
            assert!(
                is_repainted(&written.borrow()),
                "what a terminal has kept does not stand in the card of {request}"
            );
            let shown_ms = clock_ms.get();
            assert!(shown_ms >= before_ms + 2 * VISIBLE_MS);
            frame(&mut model);
            assert!(!is_repainted(&written.borrow()), "once");
            for began_ms in [before_ms, shown_ms, shown_ms + VISIBLE_MS - 1] {
                let meaning = model.cards.line("y", began_ms);
                assert!(matches!(meaning, Meaning::NotTaken(_)), "{began_ms} of {shown_ms}: {meaning:?}");
            }
            let meaning = model.cards.line("y", shown_ms + VISIBLE_MS);
            assert!(matches!(&meaning, Meaning::Decide(fields) if fields["request"] == request), "{meaning:?}");
        }
    }

    #[test]
    fn the_row_tells_an_answer_that_is_on_its_way_from_a_request_that_waits() {
        let mut model = session("approve", "waiting", &["running"]);
        let says = |model: &Model, offline| status(model, false, offline, Now { mono_ms: 0, unix_ms: 0 }, true).state;
        let answer = |model: &mut Model, request: &str| {
            let number = model.cards.shown().expect("one waits").number;
            model.cards.drawn(Some((number, true)), 0);
            let meaning = model.cards.line("y", VISIBLE_MS);
            assert!(matches!(&meaning, Meaning::Decide(fields) if fields["request"] == request), "{meaning:?}");
        };
        ["one", "two"].into_iter().for_each(|request| asks(&mut model, request));
        assert_eq!(says(&model, None), "2 requests wait for an answer");
        assert_eq!(says(&model, Some(3_000)), "offline: connecting again in 3 s");
        answer(&mut model, "one");
        assert_eq!(says(&model, None), "a request waits for an answer");
        assert_eq!(says(&model, Some(3_000)), "offline, your answer waits: connecting again in 3 s");
        answer(&mut model, "two");
        assert_eq!(says(&model, None), "your 2 answers are on their way");
        assert_eq!(says(&model, Some(0)), "offline, 2 answers of yours wait: connecting");
        model.cards.gone("one");
        assert_eq!(says(&model, None), "your answer is on its way");
        model.cards.not_decided("two");
        assert_eq!(says(&model, None), "a request waits for an answer");
    }

    /// A session in this state, with prompts in these.
    fn session(role: &str, state: &str, queue: &[&str]) -> Model {
        let queue: Vec<Value> = queue.iter().map(|state| json!({"prompt": state, "state": state})).collect();
        let snapshot = Snapshot::read(&json!({"state": state, "queue": queue, "permissions": []})).expect("a snapshot");
        let mut model = Model::new(Me::default(), role);
        model.attached(Attachment { snapshot, ..Attachment::default() });
        model
    }

    #[test]
    fn what_the_row_says_of_ctrl_c_is_what_it_does() {
        let states = ["starting", "ready", "busy", "waiting", "retrying", "stuck", "stopped", "failed", "later"];
        let queues: [&[&str]; 4] = [&[], &["queued"], &["running"], &["running", "queued"]];
        for (state, queue, role) in states
            .iter()
            .flat_map(|state| queues.map(|queue| (*state, queue, "drive")))
            .chain(states.map(|state| (state, &["running"][..], "watch")))
        {
            let model = session(role, state, queue);
            for (offline, typed) in [(None, ""), (None, "draft"), (Some(5), ""), (Some(5), "draft")] {
                let mut editor = Editor::default();
                editor.key(Key::Paste(typed.into()), 0, false);
                let says = keys(&model, offline, editor.is_empty());
                let busy = offline.is_none() && model.interrupts();
                let does = editor.key(Key::Interrupt, 0, busy);
                let what = format!("{role} {state} {queue:?} {offline:?} {typed:?}: {says}");
                match says {
                    "Ctrl-C interrupts" => {
                        assert!(does == editor::Action::Interrupt && busy && editor.text() == typed, "{what}");
                        assert!(queue.contains(&"running") || ["busy", "waiting", "stuck"].contains(&state), "{what}");
                    }
                    "Ctrl-C clears the line" => assert!(!typed.is_empty() && editor.is_empty(), "{what}"),
                    _ => {
                        assert!(does == editor::Action::Interrupt && !busy && typed.is_empty(), "{what}");
                        let said = model.not_interrupted();
                        assert!(said.ends_with("; Ctrl-] leaves"), "{what}: {said}");
                    }
                }
            }
        }
        let retrying = |queue| session("drive", "retrying", queue).not_interrupted();
        assert_eq!(retrying(&[]), "nothing is running; Ctrl-] leaves");
        assert_eq!(retrying(&["queued"]), "nothing is running; a prompt waits until the agent is ready; Ctrl-] leaves");
    }
}
