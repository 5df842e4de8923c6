import { badRequest, type HttpError } from "./errors.ts";

/** Fields of other completion servers that never change the text of an answer. */
const WITHOUT_EFFECT = new Set([
  // The sender, the purpose, caching.
  ...["user", "metadata", "store", "service_tier", "safety_identifier", "request_id", "rid"],
  ...["prompt_cache_key", "prompt_cache_retention", "cache_prompt", "id_slot", "keep_alive"],
  ...["timings_per_token", "return_progress", "spaces_between_special_tokens", "parallel_tool_calls"],
  // Details of features whose main field is refused.
  ...["mirostat_tau", "mirostat_eta", "xtc_threshold", "dynatemp_exponent", "smoothing_curve"],
  ...["dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers", "truncation_side"],
  ...["guided_decoding_backend", "guided_whitespace_pattern", "n_keep", "num_keep", "n_discard"],
  ...["logprob_start_len", "grammar_lazy", "grammar_triggers", "preserved_tokens", "prediction"],
]);

/** Values besides null, "", false, [] and {} at which a field asks for nothing. */
type Neutral = readonly (string | number | boolean)[];

/** Advice that depends on the route. Where it is null, the fields mean nothing there and are ignored. */
const ROUTE_ADVICE = {
  length: "use max_tokens",
  prompt: "give the whole text, or its token ids, as prompt",
  tools: "completions call no tools: use /v1/chat/completions",
  form: "use response_format or structured_outputs",
  sampling: null as string | null,
  choices: null as string | null,
  ids: null as string | null,
};

/** A route's own advice, where it differs from that of completions. */
export type RouteAdvice = Partial<typeof ROUTE_ADVICE>;

/** Fields of other servers that would change the answer, grouped by the advice to give. A route may have some of them. */
const REFUSED: readonly [advice: string, fields: Readonly<Record<string, Neutral>>][] = [
  [
    "length",
    {
      ...{ max_completion_tokens: [], max_new_tokens: [], max_output_tokens: [], max_length: [] },
      ...{ n_predict: [], num_predict: [], max_tokens: [] },
    },
  ],
  [
    "prompt",
    {
      ...{ messages: [], inputs: [], input: [], system: [], template: [], context: [], prompt_embeds: [] },
      ...{ images: [], image_data: [], suffix: [], input_prefix: [], input_suffix: [], input_extra: [] },
      ...{ chat_template_kwargs: [], documents: [], prompt: [], instructions: [] },
    },
  ],
  ["the template of the model's folder is used: change it there", { chat_template: [] }],
  [
    "sampling",
    {
      ...{ temperature: [], top_p: [], top_k: [], min_p: [], seed: [], stop: [], logit_bias: [] },
      ...{ presence_penalty: [0], frequency_penalty: [0], repetition_penalty: [1] },
      ...{ stop_token_ids: [], ignore_eos: [], min_tokens: [0], allowed_token_ids: [], bad_words: [] },
    },
  ],
  ["choices", { n: [1] }],
  ["ids", { return_token_ids: [] }],
  ["tools", { tools: [], functions: [], tool_choice: ["none", "auto"], function_call: ["none", "auto"] }],
  [
    "put its fields at the top level of the body",
    { options: [], parameters: [], extra_body: [], sampling_params: [] },
  ],
  [
    "use logprobs, with echo for those of the prompt",
    {
      ...{ prompt_logprobs: [], top_logprobs: [0], n_probs: [0], top_n_tokens: [0], return_logprob: [] },
      ...{ top_logprobs_num: [0], decoder_input_details: [], logprob_token_ids: [], details: [] },
      ...{ post_sampling_probs: [] },
    },
  ],
  ["use min_tokens", { min_new_tokens: [0], min_length: [0] }],
  ["use stop", { stop_sequences: [], stop_strings: [], until: [], stop_regex: [], repetition_detection: [] }],
  ["use repetition_penalty", { repeat_penalty: [1], encoder_repetition_penalty: [1] }],
  [
    "penalties count the whole answer: remove it",
    { repeat_last_n: [-1], penalize_nl: [], repetition_penalty_range: [0] },
  ],
  ["an answer does not repeat what it answers: put both together in the client", { echo: [] }],
  ["use echo", { return_full_text: [] }],
  ["use n", { n_cmpl: [1], num_return_sequences: [1], best_of: [1] }],
  ["use ignore_eos", { ban_eos_token: [] }],
  ["use add_special_tokens", { add_bos_token: [true] }],
  ["the chat template writes the special tokens", { add_special_tokens: [] }],
  ["use include_stop_str_in_output", { no_stop_trim: [] }],
  [
    "use return_token_ids: ids come beside the text",
    { return_tokens_as_token_ids: [], return_tokens: [], detokenize: [true] },
  ],
  ["use temperature 0 for the likeliest tokens", { do_sample: [true] }],
  [
    "tokens are chosen by temperature, top_k, top_p, min_p and penalties",
    {
      ...{ typical_p: [1], typ_p: [1], tfs_z: [1], tfs: [1], top_a: [0], epsilon_cutoff: [0] },
      ...{ eta_cutoff: [0], top_n_sigma: [-1, 0], nsigma: [-1, 0], dynatemp_range: [0], min_keep: [0, 1] },
      ...{ mirostat: [0], mirostat_mode: [0], xtc_probability: [0], dry_multiplier: [0], samplers: [] },
      ...{ smoothing_factor: [0], no_repeat_ngram_size: [0], penalty_alpha: [0], adaptive_target: [-1] },
      ...{ guidance_scale: [1], cfg_scale: [1], negative_prompt: [], watermark: [], logits_processors: [] },
      ...{ custom_logit_processor: [], sampler_order: [], temperature_last: [] },
    },
  ],
  [
    "beams are not searched: use best_of",
    { use_beam_search: [], num_beams: [1], length_penalty: [1], early_stopping: [] },
  ],
  [
    "form",
    {
      ...{
        response_format: ["text"],
        structured_outputs: [],
        guided_json: [],
        guided_regex: [],
        guided_choice: [],
      },
      ...{ structural_tag: [], grammar: [], json_schema: [], regex: [], ebnf: [], format: [] },
      ...{ guided_grammar: [], guided_decoding: [], grammar_string: [] },
    },
  ],
  [
    "use logit_bias with -100",
    {
      ...{ bad_words_ids: [], suppress_tokens: [] },
      ...{ banned_tokens: [], custom_token_bans: [], banned_strings: [] },
    },
  ],
  ["use truncate_prompt_tokens", { truncate: [], truncation: ["disabled"] }],
  ["the context's length is the server's: see --max-model-len", { num_ctx: [], n_ctx: [] }],
  [
    "nothing is stored here: send the whole conversation each time",
    { previous_response_id: [], conversation: [], background: [] },
  ],
  ["cut the connection to end an answer early", { t_max_predict_ms: [0], max_time: [], n_indent: [0] }],
  ["this server reads and writes text only", { audio: [], modalities: ["text"], web_search_options: [] }],
  ["give the adapter's name as model: see --lora-modules", { lora: [], lora_path: [], adapter_id: [] }],
];

/** Fields that ask for something when they hold nothing: any JSON, no sampler at all. */
const ASKS_WHEN_EMPTY = new Set(["json_schema", "samplers", "web_search_options"]);

const ELSEWHERE = new Map(
  REFUSED.flatMap(([advice, fields]) =>
    Object.entries(fields).map(([name, neutral]) => [name, { advice, neutral }] as const),
  ),
);

/**
 * The refusal of a field that a route does not have, or null. Fields that would change the answer are refused
 * unless their value asks for nothing; unknown fields are refused if `strict`.
 */
export function refusal(
  name: string,
  value: unknown,
  strict: boolean,
  routeAdvice: RouteAdvice = {},
): HttpError | null {
  const known = ELSEWHERE.get(name);
  const byRoute: Record<string, string | null | undefined> = { ...ROUTE_ADVICE, ...routeAdvice };
  const advice = known && (Object.hasOwn(byRoute, known.advice) ? byRoute[known.advice] : known.advice);
  if (known !== undefined && advice != null) {
    if (!isEmpty(value) && [value].flat().every((one) => known.neutral.includes(typeNamed(one)))) return null;
    // If true asks for nothing, false asks for something.
    const asks =
      value === false ? known.neutral.includes(true) : ASKS_WHEN_EMPTY.has(name) && Object(value) === value;
    if (isEmpty(value) && !asks) return null;
    return badRequest(name, `${name} is not supported: ${advice}`, "unsupported_parameter");
  }
  if (!strict || WITHOUT_EFFECT.has(name)) return null;
  return badRequest(name, `${name} is not a field of this server, which is strict`, "unknown_parameter");
}

/** What an object says it is, as `{"type": "text"}`; anything else as it is. */
const typeNamed = (value: unknown) => ((value as { type?: unknown } | null)?.type ?? value) as string;

function isEmpty(value: unknown): boolean {
  if (Array.isArray(value)) return value.length === 0;
  if (typeof value === "object" && value !== null) return Object.keys(value).length === 0;
  return value === null || value === "" || value === false;
}
