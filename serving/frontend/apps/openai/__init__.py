"""OpenAI's routes: chats, completions and embeddings, each translated into ordinary requests of an archive."""
