import type { UploadResult } from "../../app/protocol.ts";
import { t } from "../messages.screens.en.ts";
import { request } from "./api.ts";
import { say } from "./history.ts";

/** Sends files one after the other and says what came of each. @returns whether something new is being read. */
export async function upload(files: Iterable<File>): Promise<boolean> {
  let isNew = false;
  for (const file of files) {
    const form = new FormData();
    form.append("file", file, file.name);
    try {
      const response = await request("POST", "/api/upload", form);
      const { documents } = (await response.json()) as UploadResult;
      isNew ||= response.status === 202;
      say(response.status === 202 ? t.documents.sent(file.name) : t.documents.known(documents[0].name));
    } catch (error) {
      say(t.documents.refused(file.name, (error as Error).message));
    }
  }
  return isNew;
}
