import { conversations } from "./001_conversations.ts";
import { feedback } from "./002_feedback.ts";
import { jobs } from "./003_jobs.ts";
import { search } from "./004_search.ts";
import { notices } from "./005_notices.ts";
import { branches } from "./006_branches.ts";
import { comparisons } from "./007_comparisons.ts";
import { documents } from "./008_documents.ts";
import { serverRuns } from "./009_server_runs.ts";
import { noticePosts } from "./010_notice_posts.ts";
import type { Migration } from "./migration.ts";

/** Every step of the schema, in order. A new one goes to the end. */
export const migrations: readonly Migration[] = [
  conversations,
  feedback,
  jobs,
  search,
  notices,
  branches,
  comparisons,
  documents,
  serverRuns,
  noticePosts,
];
