//! Draws the model: rooms on the left, messages, people on the right where there is space, the status, the line to write.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::model::Model;
use super::palette::Palette;
use super::room::{Membership, Older, Room};
use super::rows::Tone;
use super::session::Phase;
use super::talk::people;
use super::text;

/// Where the parts of the screen are.
#[derive(Clone, Copy, Debug)]
pub struct Parts {
    rooms: Option<Rect>,
    /// The messages.
    pub messages: Rect,
    users: Option<Rect>,
    status: Rect,
    input: Rect,
}

impl Parts {
    /// Narrow screens have only the messages.
    pub fn of(area: Rect) -> Self {
        let body_height = area.height.saturating_sub(2);
        let left = if area.width >= ROOMS_FROM { ROOMS_COLUMNS } else { 0 };
        let right = if area.width >= USERS_FROM { USERS_COLUMNS } else { 0 };
        let part = |x: u16, width: u16| Rect { x: area.x + x, y: area.y, width, height: body_height };
        let line = |from_end: u16| {
            let height = u16::from(area.height >= from_end);
            Rect { x: area.x, y: area.y + area.height.saturating_sub(from_end), width: area.width, height }
        };
        Self {
            rooms: (left > 0).then(|| part(0, left)),
            messages: part(left, area.width - left - right),
            users: (right > 0).then(|| part(area.width - right, right)),
            status: line(2),
            input: line(1),
        }
    }
}

/// Draws everything. `now_ms`: monotonic milliseconds, for what is counted down.
pub fn draw(frame: &mut Frame, model: &Model, target: &str, palette: Palette, now_ms: u64) {
    let parts = Parts::of(frame.area());
    let room = model.current().and_then(|name| model.session.room(name));
    if let Some(area) = parts.rooms {
        draw_rooms(frame, area, model, palette);
    }
    if let (Some(area), Some(room)) = (parts.users, room) {
        draw_users(frame, area, room, palette);
    }
    match room {
        Some(room) => draw_messages(frame, parts.messages, model, room, palette),
        None => draw_nothing(frame, parts.messages, model, palette),
    }
    draw_status(frame, parts.status, model, room, target, palette, now_ms);
    let columns = usize::from(parts.input.width).saturating_sub(PROMPT.len());
    let (shown, cursor) = model.editor.window(columns);
    let prompt = Span::styled(PROMPT, palette.dim());
    frame.render_widget(Line::from(vec![prompt, Span::raw(shown)]), parts.input);
    let x = parts.input.x + (PROMPT.len() + cursor) as u16;
    frame.set_cursor_position(Position { x: x.min(parts.input.right().saturating_sub(1)), y: parts.input.y });
}

fn draw_rooms(frame: &mut Frame, area: Rect, model: &Model, palette: Palette) {
    let rooms = model.session.rooms();
    let current = rooms.iter().position(|room| Some(room.name.as_str()) == model.current()).unwrap_or(0);
    let height = usize::from(area.height).max(1);
    // The one that is looked at is always in sight.
    let first = current.saturating_sub(height - 1);
    let columns = usize::from(area.width) - 2;
    let lines = rooms.iter().enumerate().skip(first).take(height).map(|(at, room)| {
        let count = match (&room.membership, room.unread) {
            (Membership::Out(_), _) => "!".to_owned(),
            (Membership::Wanted | Membership::Joining, _) => "…".to_owned(),
            (Membership::In, 0) => String::new(),
            (Membership::In, unread @ 1..=999) => unread.to_string(),
            (Membership::In, _) => "999+".to_owned(),
        };
        let name = text::harmless_line(&room.name, NAME_BYTES_MAX);
        let name = text::fit(&name, columns - text::width(&count) - 1);
        let space = " ".repeat(columns - text::width(&name) - text::width(&count));
        let style = match (at == current, room.unread > 0, &room.membership) {
            (true, _, _) => Style::new().add_modifier(Modifier::REVERSED),
            (_, _, Membership::Out(_)) => palette.dim(),
            (_, true, _) => palette.accent(),
            _ => Style::new(),
        };
        Line::from(vec![Span::styled(format!("{name}{space}{count}"), style), Span::styled(" │", palette.dim())])
    });
    let mut lines: Vec<Line> = lines.collect();
    let rest = format!("{} │", " ".repeat(columns));
    lines.resize_with(height, || Line::styled(rest.clone(), palette.dim()));
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_users(frame: &mut Frame, area: Rect, room: &Room, palette: Palette) {
    let height = usize::from(area.height);
    let columns = usize::from(area.width).saturating_sub(2);
    let mut lines = Vec::with_capacity(height);
    let border = || Span::styled("│ ", palette.dim());
    if !room.is_inbox() && room.membership == Membership::In {
        lines.push(Line::from(vec![border(), Span::styled(people(room.members), palette.dim())]));
        let users = room.users.iter().flatten();
        let space = height.saturating_sub(lines.len());
        let shown =
            if room.users.as_ref().is_some_and(|users| users.len() > space) { space.saturating_sub(1) } else { space };
        for user in users.take(shown) {
            let style = palette.style(&Tone::Sender(user.clone()));
            lines.push(Line::from(vec![border(), Span::styled(text::fit(user, columns), style)]));
        }
        if let Some(more) = room.users.as_ref().map(|users| users.len().saturating_sub(shown)).filter(|more| *more > 0)
        {
            lines.push(Line::from(vec![border(), Span::styled(format!("and {more} more"), palette.dim())]));
        }
    }
    lines.resize_with(height, || Line::from(border()));
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_messages(frame: &mut Frame, area: Rect, model: &Model, room: &Room, palette: Palette) {
    let (columns, height) = (usize::from(area.width), usize::from(area.height));
    let rows = model.shape(columns, height).visible(room, model.session.outbox(), model.bottom());
    let mut lines: Vec<Line> = Vec::with_capacity(height);
    if rows.len() < height && room.older == Older::Loading {
        lines.push(Line::styled("reading what was before …", palette.dim()));
    }
    // A room begins at its bottom, next to where people write.
    let space = height.saturating_sub(rows.len() + lines.len());
    lines.splice(0..0, (0..space).map(|_| Line::default()));
    for row in &rows {
        let spans = row.0.iter().map(|(text, tone)| Span::styled(text.clone(), palette.style(tone)));
        lines.push(Line::from(spans.collect::<Vec<_>>()));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_nothing(frame: &mut Frame, area: Rect, model: &Model, palette: Palette) {
    let lines = ["You are in no room. /join NAME enters one, /rooms lists them, /help says more.", &model.told];
    let lines = lines.iter().flat_map(|line| text::wrap(line, usize::from(area.width)));
    let lines: Vec<Line> = lines.map(|line| Line::styled(line, palette.dim())).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_status(
    frame: &mut Frame,
    area: Rect,
    model: &Model,
    room: Option<&Room>,
    target: &str,
    palette: Palette,
    now_ms: u64,
) {
    let (phase, why) = model.session.phase();
    let (is_well, connection) = match phase {
        Phase::Online if why.is_empty() => (true, format!("● {} at {target}", model.session.me())),
        Phase::Online => (false, format!("○ {why}")),
        Phase::Pausing(until_ms) => {
            let seconds = until_ms.saturating_sub(now_ms).div_ceil(1_000).max(1);
            (false, format!("○ {why}: trying again in {seconds} s"))
        }
        Phase::Over => (false, format!("✕ {why}  (/quit)")),
        Phase::Idle | Phase::Dialling | Phase::Greeting => (false, format!("○ connecting to {target} …")),
    };
    let mut parts = vec![connection];
    if let Some(room) = room {
        parts.push(text::harmless_line(&room.name, NAME_BYTES_MAX));
        match &room.membership {
            Membership::In if room.is_inbox() => parts.push("messages to you alone".to_owned()),
            Membership::In => parts.push(people(room.members)),
            Membership::Wanted | Membership::Joining => parts.push("entering …".to_owned()),
            Membership::Out(_) => parts.push("not in this room".to_owned()),
        }
        if room.membership == Membership::In && room.role == "host" && !room.is_inbox() {
            parts.push("host".to_owned());
        }
        if model.bottom().is_some() {
            let new = if room.unread > 0 { format!(", {} new", room.unread) } else { String::new() };
            parts.push(format!("scrolled back{new}: Ctrl-End"));
        }
    }
    let shown = text::fit(&parts.join(" · "), usize::from(area.width));
    let fill = usize::from(area.width).saturating_sub(text::width(&shown));
    let base = if is_well { Style::new() } else { palette.alarm() };
    let style = base.add_modifier(Modifier::REVERSED);
    frame.render_widget(Line::styled(format!("{shown}{}", " ".repeat(fill)), style), area);
}

const PROMPT: &str = "> ";
/// From which width on there is space for the rooms, and for people.
const ROOMS_FROM: u16 = 60;
const USERS_FROM: u16 = 100;
const ROOMS_COLUMNS: u16 = 20;
const USERS_COLUMNS: u16 = 22;
const NAME_BYTES_MAX: usize = 128;
