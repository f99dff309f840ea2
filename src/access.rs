//! Who a client is and what it may do: identities, and permissions by the pattern of a room's name.
//!
//! A token says who its user is, and may name a role for rooms by pattern. Where it names none, the rules of the
//! configuration do: the first that fits the room decides. Without a rule every user is a member.

use std::sync::Arc;

use crate::ids::{RoomName, UserName};
use crate::message::event::Role;
use crate::policy::Pattern;

/// Who a connection is, as far as its token or, in open mode, its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user: the token's `sub`, in open mode the name.
    pub user: UserName,
    /// The token's `name`, for people.
    pub name: Option<Arc<str>>,
    /// Whether a token has proved it. Otherwise the first user in a room is its host.
    pub proven: bool,
    /// When the token ends, Unix milliseconds.
    pub expires_unix_ms: Option<u64>,
    /// When the token was issued (`iat`), Unix milliseconds.
    pub issued_unix_ms: Option<u64>,
    /// The token's `jti`.
    pub token_id: Option<Arc<str>>,
    /// The token's `roles`: names that the configuration's rules refer to.
    pub roles: Box<[Arc<str>]>,
    /// The token's `rooms`; `None` if it has no such claim.
    pub rooms: Option<Grants>,
}

/// Roles in rooms by pattern, the most specific pattern first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants(Box<[(Pattern, Role)]>);

/// What may be done in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Enter it, and see it in lists.
    Join,
    /// Send messages and signals, delete one's own.
    Send,
    /// See who is there.
    Presence,
    /// Read what was said before.
    History,
    /// Delete what others said; kick, ban and mute; close the room.
    Moderate,
}

/// A set of [`Action`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights(u8);

/// What a user is and may do in one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A role of its own.
    Fixed {
        /// As clients are told.
        role: Role,
        /// What it may do.
        rights: Rights,
    },
    /// Host while it is the one who has been there longest, member otherwise (open mode).
    BySeniority {
        /// What it may do as a member.
        member: Rights,
        /// What it may do as the host.
        host: Rights,
    },
}

/// Who may do something in the rooms of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Everyone that may connect.
    Anyone,
    /// Who has at least this role in the room.
    AtLeast(Role),
    /// Whose token has this name among its `roles`.
    Claimed(Arc<str>),
    /// This user.
    User(UserName),
}

/// What the configuration says of rooms by pattern. Of an action it does not mention, the role decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermissionRule {
    /// Which rooms.
    pub rooms: Pattern,
    /// The role of a user whose token names none for the room; `None`: no role, hence no right that a role gives.
    pub role: Option<Role>,
    /// Who may do what, where it differs from what the roles say.
    pub allowed: Vec<(Action, Vec<Who>)>,
}

/// The rules of a server, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// The first whose pattern fits decides.
    pub rules: Vec<PermissionRule>,
}

impl Identity {
    /// Someone who has only said a name.
    #[must_use]
    pub fn named(user: UserName) -> Self {
        Self {
            user,
            name: None,
            proven: false,
            expires_unix_ms: None,
            issued_unix_ms: None,
            token_id: None,
            roles: Box::default(),
            rooms: None,
        }
    }
}

impl Grants {
    /// Orders grants so that the most specific pattern comes first: a name, then the pattern with the most text.
    #[must_use]
    pub fn new(grants: impl IntoIterator<Item = (Pattern, Role)>) -> Self {
        let mut grants: Vec<_> = grants.into_iter().collect();
        let rank = |pattern: &Pattern| {
            let text = pattern.as_str();
            (text.contains('*'), std::cmp::Reverse(text.len()))
        };
        grants.sort_by(|(a, role_a), (b, role_b)| (rank(a), a.as_str(), role_a).cmp(&(rank(b), b.as_str(), role_b)));
        Self(grants.into())
    }

    /// The role in a room, if any grant fits it.
    #[must_use]
    pub fn role(&self, room: &RoomName) -> Option<Role> {
        self.0.iter().find(|(pattern, _)| pattern.fits(room.as_str())).map(|(_, role)| *role)
    }

    /// The grants, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &(Pattern, Role)> {
        self.0.iter()
    }
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 5] = [Self::Join, Self::Send, Self::Presence, Self::History, Self::Moderate];

    /// The key of a rule.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Send => "send",
            Self::Presence => "presence",
            Self::History => "history",
            Self::Moderate => "moderate",
        }
    }

    /// The least role that may do it where no rule says otherwise.
    fn least_role(self) -> Role {
        match self {
            Self::Join | Self::Presence | Self::History => Role::Guest,
            Self::Send => Role::Member,
            Self::Moderate => Role::Host,
        }
    }
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self(0b1_1111);

    /// Whether an action is among them.
    #[must_use]
    pub fn has(self, action: Action) -> bool {
        self.0 & (1 << action as u8) != 0
    }

    /// With one more.
    #[must_use]
    pub fn with(self, action: Action) -> Self {
        Self(self.0 | 1 << action as u8)
    }

    /// What a role gives where no rule says otherwise.
    #[must_use]
    pub fn of(role: Role) -> Self {
        let given = Action::ALL.into_iter().filter(|action| role >= action.least_role());
        given.fold(Self::default(), Self::with)
    }
}

impl Standing {
    /// What it comes to for a user who is, or is not, the one who has been there longest.
    #[must_use]
    pub fn settle(self, is_senior: bool) -> (Role, Rights) {
        match self {
            Self::Fixed { role, rights } => (role, rights),
            Self::BySeniority { host, .. } if is_senior => (Role::Host, host),
            Self::BySeniority { member, .. } => (Role::Member, member),
        }
    }

    /// Whether it may enter.
    #[must_use]
    pub fn may_join(self) -> bool {
        self.settle(false).1.has(Action::Join)
    }
}

impl Permissions {
    /// What a user is and may do in a room.
    #[must_use]
    pub fn standing(&self, identity: &Identity, room: &RoomName) -> Standing {
        let rule = self.rules.iter().find(|rule| rule.rooms.fits(room.as_str()));
        if !identity.proven {
            let rights = |role| rights(rule, identity, Some(role));
            return Standing::BySeniority { member: rights(Role::Member), host: rights(Role::Host) };
        }
        let role = match (&identity.rooms, rule) {
            (Some(grants), _) if grants.role(room).is_some() => grants.role(room),
            (_, Some(rule)) => rule.role,
            // A token that names rooms means these rooms.
            (Some(_), None) => None,
            (None, None) => Some(Role::Member),
        };
        Standing::Fixed { role: role.unwrap_or(Role::Guest), rights: rights(rule, identity, role) }
    }
}

/// What a user with a role, or with none, may do where this rule decides.
fn rights(rule: Option<&PermissionRule>, identity: &Identity, role: Option<Role>) -> Rights {
    let may = |action: &Action| match rule.and_then(|rule| rule.allowed.iter().find(|(of, _)| of == action)) {
        Some((_, who)) => who.iter().any(|who| who.is(identity, role)),
        None => role.is_some_and(|role| role >= action.least_role()),
    };
    Action::ALL.into_iter().filter(may).fold(Rights::default(), Rights::with)
}

impl Who {
    fn is(&self, identity: &Identity, role: Option<Role>) -> bool {
        match self {
            Self::Anyone => true,
            Self::AtLeast(least) => role.is_some_and(|role| role >= *least),
            Self::Claimed(name) => identity.roles.contains(name),
            Self::User(user) => identity.user == *user,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::chat(name).unwrap()
    }

    fn proven(rooms: Option<&[(&str, Role)]>) -> Identity {
        let rooms = rooms.map(|rooms| Grants::new(rooms.iter().map(|(pattern, role)| (Pattern::new(pattern), *role))));
        Identity { proven: true, rooms, ..Identity::named(UserName::new("ann").unwrap()) }
    }

    fn staff_only() -> Permissions {
        let staff = vec![Who::Claimed("staff".into()), Who::User(UserName::new("zoe").unwrap())];
        let allowed = vec![(Action::Join, staff), (Action::History, vec![Who::AtLeast(Role::Host)])];
        Permissions {
            rules: vec![PermissionRule { rooms: Pattern::new("staff-*"), role: Some(Role::Member), allowed }],
        }
    }

    #[test]
    fn the_most_specific_grant_decides() {
        let grants = [("*", Role::Guest), ("team-*", Role::Member), ("team-a", Role::Host), ("team-a*", Role::Guest)];
        let grants = Grants::new(grants.map(|(pattern, role)| (Pattern::new(pattern), role)));
        let role = |name: &str| grants.role(&room(name));
        assert_eq!(role("team-a"), Some(Role::Host));
        assert_eq!(role("team-ab"), Some(Role::Guest));
        assert_eq!(role("team-b"), Some(Role::Member));
        assert_eq!(role("lobby"), Some(Role::Guest));
        assert_eq!(Grants::default().role(&room("lobby")), None);
    }

    #[test]
    fn a_token_that_names_rooms_opens_no_others() {
        let permissions = Permissions::default();
        let named = proven(Some(&[("team-*", Role::Host)]));
        assert_eq!(
            permissions.standing(&named, &room("team-1")),
            Standing::Fixed { role: Role::Host, rights: Rights::ALL }
        );
        assert!(!permissions.standing(&named, &room("lobby")).may_join());
        assert!(permissions.standing(&proven(None), &room("lobby")).may_join());
    }

    #[test]
    fn roles_give_rights() {
        let has = |role, action| Rights::of(role).has(action);
        assert!(has(Role::Guest, Action::Join) && has(Role::Guest, Action::History) && !has(Role::Guest, Action::Send));
        assert!(has(Role::Member, Action::Send) && !has(Role::Member, Action::Moderate));
        assert_eq!(Rights::of(Role::Host), Rights::ALL);
    }

    #[test]
    fn rules_say_who_where_roles_do_not() {
        let permissions = staff_only();
        let may =
            |identity: &Identity, action| permissions.standing(identity, &room("staff-1")).settle(false).1.has(action);
        let (mut staff, outsider) = (proven(None), proven(None));
        staff.roles = [Arc::from("staff")].into();
        assert!(may(&staff, Action::Join) && may(&staff, Action::Send) && !may(&staff, Action::History));
        assert!(!may(&outsider, Action::Join));
        let zoe = Identity { user: UserName::new("zoe").unwrap(), ..proven(None) };
        assert!(may(&zoe, Action::Join), "a user is named by the rule");
        let host = proven(Some(&[("staff-1", Role::Host)]));
        assert!(!may(&host, Action::Join) && may(&host, Action::History), "a rule outweighs the role for its action");
    }

    #[test]
    fn without_a_token_the_first_one_is_the_host() {
        let ann = Identity::named(UserName::new("ann").unwrap());
        let standing = Permissions::default().standing(&ann, &room("lobby"));
        assert_eq!(standing.settle(true), (Role::Host, Rights::ALL));
        assert_eq!(standing.settle(false), (Role::Member, Rights::of(Role::Member)));
        let mut rules = staff_only();
        rules.rules[0].allowed = vec![(Action::Send, vec![Who::AtLeast(Role::Host)])];
        let (_, rights) = rules.standing(&ann, &room("staff-1")).settle(false);
        assert!(!rights.has(Action::Send), "an announcement room");
    }
}
