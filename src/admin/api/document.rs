//! The OpenAPI document, made from the handlers and the shapes that they take and give.

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::super::problem::ProblemBody;
use super::super::{ReloadReport, backup};
use super::{batch, broadcast, connections, letters, moderation, publish, rooms, server};

/// The document.
pub(in crate::admin) fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "hubbub",
        description = "What an operator can ask of a running server and have it do. Errors are problems (RFC 9457)."
    ),
    paths(
        publish::publish,
        broadcast::broadcast,
        rooms::list,
        rooms::look,
        rooms::history,
        rooms::presence,
        moderation::close,
        moderation::kick,
        moderation::ban_in_room,
        moderation::unban_in_room,
        moderation::mute_in_room,
        moderation::unmute_in_room,
        moderation::ban,
        moderation::unban,
        moderation::mute,
        moderation::unmute,
        moderation::revoke,
        moderation::revoke_token,
        moderation::list,
        letters::list,
        letters::replay,
        letters::purge,
        connections::of_user,
        connections::disconnect_user,
        connections::list,
        connections::disconnect,
        server::shards,
        server::config,
        server::drain,
        server::reload,
        batch::batch,
        backup::backup,
        openapi,
    ),
    components(schemas(ProblemBody, ReloadReport)),
    modifiers(&Refusals),
    security(("key" = []))
)]
struct Document;

/// This document. Needs no key.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "server", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
#[expect(dead_code, reason = "what answers is among the routes that need no key")]
fn openapi() {}

/// What all operations have in common: the key, and that anything may be refused.
struct Refusals;

impl Modify for Refusals {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let key = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A line of the file that admin_key_file names, without its name"))
            .build();
        let components = document.components.get_or_insert_with(Components::new);
        components.add_security_scheme("key", SecurityScheme::Http(key));
        let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let refused = ResponseBuilder::new()
            .description("It was refused, or failed")
            .content("application/problem+json", problem)
            .build();
        for item in document.paths.paths.values_mut() {
            for operation in [&mut item.get, &mut item.post, &mut item.delete].into_iter().flatten() {
                operation.responses.responses.insert("default".to_owned(), RefOr::T(refused.clone()));
            }
        }
    }
}
