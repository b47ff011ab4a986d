//! `[state]`.

use fusion_storage::{MongoConfig, RedisConfig};

use super::{Reader, text};

/// Where the state is kept that several servers share; none where the data folder has it.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) mongo: Option<MongoConfig>,
    pub(crate) redis: Option<RedisConfig>,
}

impl State {
    pub(super) fn take(reader: &mut Reader) -> Self {
        let kind: String = reader.take("state.vector_db_type");
        if !matches!(kind.as_str(), "embedded" | "mlx") {
            let problem = format!("{kind:?} is not implemented yet; use \"embedded\"");
            reader.problem("state.vector_db_type", problem);
        }
        let database: String = reader.take("state.mongo_db");
        if database.is_empty()
            || database.len() > 63
            || database.contains(['/', '\\', '.', ' ', '"', '$'])
        {
            let problem =
                "must be a database's name: up to 63 bytes without / \\ . \" $ and spaces";
            reader.problem("state.mongo_db", problem);
        }
        let mongo = uri(reader, "state.mongo_uri", &["mongodb://", "mongodb+srv://"]);
        let redis = uri(
            reader,
            "state.redis_uri",
            &["redis://", "rediss://", "redis+unix://", "unix://"],
        );
        if redis.is_some() && mongo.is_none() {
            let problem = "needs state.mongo_uri: it is for servers that share a MongoDB, and one alone has its queue in its own store";
            reader.problem("state.redis_uri", problem);
        }
        Self {
            mongo: mongo.map(|uri| MongoConfig { uri, database }),
            redis: redis.map(|uri| RedisConfig {
                uri,
                database: reader.take::<u32>("state.redis_db").into(),
            }),
        }
    }
}

/// The URI is in no message: it may hold a password.
fn uri(reader: &mut Reader, key: &str, schemes: &[&str]) -> Option<String> {
    let uri = text(reader, key)?;
    if !schemes.iter().any(|scheme| uri.starts_with(scheme)) {
        reader.problem(key, format!("must start with {}", schemes.join(" or ")));
    }
    Some(uri)
}
